"""`tutelage record`: copies a run from a topic to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tutelage.cli.kafka_flags import (
    BootstrapFlag,
    FileFlag,
    OptionFlag,
    RegistryFlag,
    RunFlag,
    kafka_settings,
)


def record(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="The topic to read.")],
    file: Annotated[Path, typer.Argument(metavar="FILE.avro", help="The Avro file to write.")],
    codec: Annotated[
        str, typer.Option(help="Compress the file with null (not at all), deflate or zstandard.")
    ] = "null",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it exists, finished or not.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(help="Wait at most this many seconds for the teacher's next record.")
    ] = 600.0,
    run: RunFlag = None,
    bootstrap_server: BootstrapFlag = None,
    registry: RegistryFlag = None,
    command_config: FileFlag = None,
    x: OptionFlag = None,
) -> None:
    """Copy a run from a topic to a file, until its last pass ends.

    Records are copied unchanged. After an interruption the same command continues.

    [bold]Example[/bold]

      tutelage record teacher1 teacher1.avro -b localhost:9092
    """
    from tutelage import KafkaSource
    from tutelage.cli.copy_report import copy_with_progress
    from tutelage.schemas.arguments import check_seconds
    from tutelage.schemas.container_format import check_codec
    from tutelage.tools.copy import record as copy

    timeout_s = check_seconds("--timeout", timeout)
    chosen = check_codec(codec)
    source = KafkaSource(
        topic, run=run, **kafka_settings(bootstrap_server, registry, command_config, x).arguments()
    )
    copy_with_progress(
        source.name,
        str(file),
        lambda show: copy(
            source, file, codec=chosen, overwrite=overwrite, timeout_s=timeout_s, progress=show
        ),
    )
