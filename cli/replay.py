"""`tutelage replay`: file -> topic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tutelage.cli.kafka_flags import BootstrapFlag, CreateFlag, FileFlag, OptionFlag, RegistryFlag, kafka_settings


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE.avro")],
    topic: Annotated[str, typer.Argument(metavar="TOPIC")],
    create: CreateFlag = True,
    bootstrap_server: BootstrapFlag = None,
    registry: RegistryFlag = None,
    command_config: FileFlag = None,
    x: OptionFlag = None,
) -> None:
    """Replay a file's run to a topic, record by record as they are, in the partitions it had. Interrupted, it goes on.

    [bold]Example[/bold]

      tutelage replay teacher1.avro teacher1-again -b localhost:9092
    """
    from tutelage import FileSource, KafkaSink
    from tutelage.cli.copy_command import copied_with_progress

    kafka = kafka_settings(bootstrap_server, registry, command_config, x)
    source = FileSource(file)
    partitions = source.open(0).stream.partitions
    copied_with_progress(source, KafkaSink(topic, partitions=partitions, create=create, **kafka.arguments()), timeout_s=60.0)
