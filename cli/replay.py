"""`tutelage replay`: copies a run from a file to a topic."""

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
    file: Annotated[Path, typer.Argument(metavar="FILE.avro", help="The Avro file to read.")],
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="The topic to write.")],
    create: CreateFlag = True,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes",
            "-y",
            help=f"Create a topic of more than {MANY_PARTITIONS} partitions without asking.",
        ),
    ] = False,
    bootstrap_server: BootstrapFlag = None,
    registry: RegistryFlag = None,
    command_config: FileFlag = None,
    x: OptionFlag = None,
) -> None:
    """Copy a run from a file to a topic.

    Records are copied unchanged, each to the partition that it was recorded from. After an
    interruption the same command continues.

    The file determines how many partitions the topic needs. The command asks before it creates a
    topic with many of them.

    [bold]Example[/bold]

      tutelage replay teacher1.avro teacher1-again -b localhost:9092
    """
    from tutelage import FileSource, KafkaSink
    from tutelage.cli.copy_report import copy_with_progress
    from tutelage.tools.copy import replay as copy

    kafka = kafka_settings(bootstrap_server, registry, command_config, x)
    source = FileSource(file)
    partitions = source.open(0).stream.partitions
    if create and not yes and partitions > MANY_PARTITIONS:
        _confirm_creation(file, topic, partitions, kafka)
    source.close()
    sink = KafkaSink(topic, partitions=partitions, create=create, **kafka.arguments())
    copy_with_progress(source.name, sink.name, lambda show: copy(file, sink, progress=show))


def _confirm_creation(file: Path, topic: str, partitions: int, kafka: KafkaSettings) -> None:
    """Ask before a topic is created. ConfigurationError for a no, or if nobody can be asked."""
    from tutelage.schemas.errors import ConfigurationError
    from tutelage.schemas.topic import check_topic
    from tutelage.transport.connection import KafkaConnection
    from tutelage.transport.topic_admin import KafkaTopic

    if KafkaTopic(KafkaConnection(**kafka.arguments()), check_topic(topic)).partitions():
        # The topic exists. The sink checks whether it has enough partitions.
        return
    what = (
        f"{printable(str(file))} says that its run has {partitions:,} partitions, and topic "
        f"{topic} would be created with as many"
    )
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{what}; if that is intended, repeat the command with --yes")
    if not typer.confirm(f"{what}. Create it?", err=True):
        raise ConfigurationError(f"topic {topic} was not created, and nothing was written")
