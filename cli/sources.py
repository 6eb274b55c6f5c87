"""Turns each SOURCE of a command line into a source object: a file or a topic."""

from __future__ import annotations

import os

from tutelage.cli.kafka_flags import KafkaSettings
from tutelage.cli.printing import typed_text
from tutelage.consumers.sources.base import Source
from tutelage.schemas.errors import ConfigurationError


def is_file(text: str) -> bool:
    """Whether a SOURCE is a file: by the prefix `file:`, by its name, or because it exists."""
    if text.startswith(("file:", "topic:")):
        return text.startswith("file:")
    return "/" in text or text.endswith((".avro", ".partial")) or os.path.exists(text)


def make_source(
    text: str, kafka: KafkaSettings, *, group: str | None = None, run: str | None = None
) -> Source:
    """Make the source that a SOURCE names.

    Args:
        text: The SOURCE: NAME, file:NAME or topic:NAME.
        kafka: Where topics are.
        group: The consumer group that a topic's progress is committed to.
        run: The run of a topic; the newest if None.

    Returns:
        A source that is not open yet.

    Raises:
        ConfigurationError: The SOURCE has no name, or is a file and a run is given.
    """
    name = text.removeprefix("file:").removeprefix("topic:")
    if not name:
        raise ConfigurationError(f"{text!r} names no file or topic")
    if is_file(text):
        if run is not None:
            raise ConfigurationError(f"--run is about a topic; the file {name} holds one run")
        from tutelage.consumers.sources.file import FileSource

        return FileSource(name)
    from tutelage.consumers.sources.kafka import KafkaSource

    return KafkaSource(name, group=group, run=run, **kafka.arguments())


def parse_runs(sources: list[str], given: list[str] | None) -> dict[str, str]:
    """Parse the --run flags of several sources.

    Args:
        sources: The SOURCEs.
        given: The values of --run: TOPIC=RUN_ID, or RUN_ID alone if there is one topic.

    Returns:
        SOURCE -> run id.

    Raises:
        ConfigurationError: A value names none of the topics.
    """
    topics = {text.removeprefix("topic:"): text for text in sources if not is_file(text)}
    found: dict[str, str] = {}
    for value in given or ():
        topic, equals, run = value.partition("=")
        if equals and topic in topics:
            found[topics[topic]] = run
        elif len(topics) == 1:
            found[next(iter(topics.values()))] = value
        else:
            raise ConfigurationError(
                f"--run {value}: give it as TOPIC=RUN_ID, with one of the topics "
                f"{', '.join(topics) or '(there are none)'}"
            )
    return found


def parse_pairs(given: list[str] | None, flag: str) -> dict[str, str]:
    """Parse KEY=VALUE flags. The last `=` separates, because a key may hold any text."""
    found: dict[str, str] = {}
    for argument in given or ():
        text = typed_text(flag, argument)
        key, equals, value = text.rpartition("=")
        if not equals or not value:
            raise ConfigurationError(f"{flag} {text}: give it as KEY=VALUE")
        found[key] = value
    return found
