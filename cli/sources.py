"""SOURCE on the command line -> a source: a file where there is one or the name looks like one, else a topic."""

from __future__ import annotations

import os

from tutelage.cli.kafka_flags import KafkaSettings
from tutelage.cli.printing import typed_text
from tutelage.consumers.sources.base import Source
from tutelage.schemas.errors import ConfigurationError


def is_file(text: str) -> bool:
    """Whether a SOURCE names a file: by `file:`, by a slash or .avro in it, or because there is such a file."""
    if text.startswith(("file:", "topic:")):
        return text.startswith("file:")
    return "/" in text or text.endswith((".avro", ".partial")) or os.path.exists(text)


def source_of(
    text: str, kafka: KafkaSettings, *, group: str | None = None, run: str | None = None
) -> Source:
    """The source a SOURCE names; `file:NAME` and `topic:NAME` leave no doubt. `run` names one run of a topic."""
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


def runs_of(sources: list[str], given: list[str] | None) -> dict[str, str]:
    """SOURCE -> the run that --run names for it: as TOPIC=RUN_ID, or RUN_ID alone where there is one topic."""
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
                f"--run {value}: give it as TOPIC=RUN_ID, with one of the topics {', '.join(topics) or '(there are none)'}"
            )
    return found


def pairs(given: list[str] | None, flag: str) -> dict[str, str]:
    """KEY=VALUE flags as a dict; the last `=` separates, because keys may hold any text."""
    found: dict[str, str] = {}
    for argument in given or ():
        text = typed_text(flag, argument)
        key, equals, value = text.rpartition("=")
        if not equals or not value:
            raise ConfigurationError(f"{flag} {text}: give it as KEY=VALUE")
        found[key] = value
    return found
