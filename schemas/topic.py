"""Names and partitions: where the records of a topic's runs lie."""

from __future__ import annotations

import re

from tutelage.schemas.errors import ConfigurationError

#: In place of a partition's offset: nothing of it was read; reading begins with its first record.
BEGINNING = -1

_LEGAL_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,200}")


def checked_topic(topic: str) -> str:
    """The topic name itself; ConfigurationError unless Kafka and the names derived from it allow it."""
    if not isinstance(topic, str) or not _LEGAL_TOPIC.fullmatch(topic) or topic in (".", ".."):
        raise ConfigurationError(
            f"{topic!r} is no topic name: use 1 to 200 letters, digits, '.', '_' or '-' (the control topics add to it)"
        )
    return topic


def value_subject(topic: str) -> str:
    """The registry's subject for a topic's values (Confluent's TopicNameStrategy)."""
    return f"{topic}-value"


def to_teacher_topic(topic: str) -> str:
    """Where a student's control messages to the teacher of `topic` go."""
    return f"{topic}.to-teacher"


def to_student_topic(topic: str) -> str:
    """Where the control messages of the teacher of `topic` go."""
    return f"{topic}.to-student"


def partition_of(sequence: int, partitions: int) -> int:
    """The partition that holds record `sequence` of any pass."""
    return sequence % partitions
