"""`tutelage record`: topic -> file."""

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
    topic: Annotated[str, typer.Argument(metavar="TOPIC")],
    file: Annotated[Path, typer.Argument(metavar="FILE.avro")],
    codec: Annotated[str, typer.Option(help="null, deflate or zstandard.")] = "null",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file, finished or not.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(help="Seconds to wait for the teacher's next record.")
    ] = 600.0,
    run: RunFlag = None,
    bootstrap_server: BootstrapFlag = None,
    registry: RegistryFlag = None,
    command_config: FileFlag = None,
    x: OptionFlag = None,
) -> None:
    """Record a topic's run to a file, record by record as they are, until its last pass ends. Interrupted, it goes on.

    [bold]Example[/bold]

      tutelage record teacher1 teacher1.avro -b localhost:9092
    """
    from tutelage import KafkaSource
    from tutelage.cli.copy_command import with_progress
    from tutelage.schemas.arguments import check_seconds
    from tutelage.schemas.container_format import check_codec
    from tutelage.tools.copy import record as copy

    timeout_s = check_seconds("--timeout", timeout)
    chosen = check_codec(codec)
    source = KafkaSource(
        topic, run=run, **kafka_settings(bootstrap_server, registry, command_config, x).arguments()
    )
    with_progress(
        source.name,
        str(file),
        lambda show: copy(
            source, file, codec=chosen, overwrite=overwrite, timeout_s=timeout_s, progress=show
        ),
    )
