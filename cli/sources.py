"""SOURCE on the command line -> a source: a file where there is one or the name looks like one, else a topic."""

from __future__ import annotations

import os

from tutelage.cli.kafka_flags import KafkaSettings
from tutelage.cli.printing import typed_text
from tutelage.consumers.source import Source
from tutelage.schemas.errors import ConfigurationError


def is_file(text: str) -> bool:
    """Whether a SOURCE names a file: by `file:`, by a slash or .avro in it, or because there is such a file."""
    if text.startswith(("file:", "topic:")):
        return text.startswith("file:")
    return "/" in text or text.endswith((".avro", ".partial")) or os.path.exists(text)


def source_of(text: str, kafka: KafkaSettings, *, group: str | None = None) -> Source:
    """The source a SOURCE names; `file:NAME` and `topic:NAME` leave no doubt."""
    name = text.removeprefix("file:").removeprefix("topic:")
    if not name:
        raise ConfigurationError(f"{text!r} names no file or topic")
    if is_file(text):
        from tutelage.consumers.file_source import FileSource

        return FileSource(name)
    from tutelage.consumers.kafka_source import KafkaSource

    return KafkaSource(name, group=group, **kafka.arguments())


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
