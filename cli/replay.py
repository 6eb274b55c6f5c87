"""`tutelage replay`: file -> topic."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tutelage.cli.kafka_flags import (
    BootstrapFlag,
    CreateFlag,
    FileFlag,
    KafkaSettings,
    OptionFlag,
    RegistryFlag,
    kafka_settings,
)
from tutelage.schemas.printable import printable

# Each partition costs the brokers files, memory and a leader; runs have a few dozen at most.
MANY_PARTITIONS = 100


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE.avro")],
    topic: Annotated[str, typer.Argument(metavar="TOPIC")],
    create: CreateFlag = True,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes",
            "-y",
            help=f"Make a topic of more than {MANY_PARTITIONS} partitions without asking.",
        ),
    ] = False,
    bootstrap_server: BootstrapFlag = None,
    registry: RegistryFlag = None,
    command_config: FileFlag = None,
    x: OptionFlag = None,
) -> None:
    """Replay a file's run to a topic, record by record as they are, in the partitions it had. Interrupted, it goes on.

    How many partitions that are stands in the file. Where the topic is missing and they are many, it asks first.

    [bold]Example[/bold]

      tutelage replay teacher1.avro teacher1-again -b localhost:9092
    """
    from tutelage import FileSource, KafkaSink
    from tutelage.cli.copy_command import with_progress
    from tutelage.tools.copy import replay as copy

    kafka = kafka_settings(bootstrap_server, registry, command_config, x)
    source = FileSource(file)
    partitions = source.open(0).stream.partitions
    if create and not yes and partitions > MANY_PARTITIONS:
        _ask(file, topic, partitions, kafka)
    source.close()
    sink = KafkaSink(topic, partitions=partitions, create=create, **kafka.arguments())
    with_progress(source.name, sink.name, lambda show: copy(file, sink, progress=show))


def _ask(file: Path, topic: str, partitions: int, kafka: KafkaSettings) -> None:
    """Ask whether a topic of so many partitions is to be made. ConfigurationError if not, or where nobody can be asked."""
    from tutelage.schemas.errors import ConfigurationError
    from tutelage.schemas.topic import check_topic
    from tutelage.transport.connection import KafkaConnection
    from tutelage.transport.topic_admin import KafkaTopic

    if KafkaTopic(KafkaConnection(**kafka.arguments()), check_topic(topic)).partitions():
        # It is there: nothing is made, and whether it has partitions enough is for the sink to say.
        return
    what = f"{printable(str(file))} says that its run has {partitions:,} partitions, and topic {topic} would be made with as many"
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{what}; if that is meant, say so with --yes")
    if not typer.confirm(f"{what}. Make it?", err=True):
        raise ConfigurationError(f"topic {topic} was not made, and nothing was written")
