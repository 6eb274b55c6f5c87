"""The names that belong to a topic, and the partition of each record. Knows no broker."""

from __future__ import annotations

import re

from tutelage.schemas.errors import ConfigurationError

#: In place of an offset: the partition was not read yet, and reading begins with its first record.
BEGINNING = -1

_LEGAL_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,200}")


def check_topic(topic: str) -> str:
    """Return the topic's name.

    Raises:
        ConfigurationError: Kafka does not allow the name, or the names derived from it.
    """
    if not isinstance(topic, str) or not _LEGAL_TOPIC.fullmatch(topic) or topic in (".", ".."):
        raise ConfigurationError(
            f"{topic!r} is not a topic name: use 1 to 200 letters, digits, '.', '_' or '-' (the "
            "names of the control topics are longer)"
        )
    return topic


def value_subject(topic: str) -> str:
    """The registry's subject for a topic's values (Confluent's TopicNameStrategy)."""
    return f"{topic}-value"


def to_teacher_topic(topic: str) -> str:
    """The control topic that holds a student's messages to the teacher of `topic`."""
    return f"{topic}.to-teacher"


def to_student_topic(topic: str) -> str:
    """The control topic that holds the messages of the teacher of `topic`."""
    return f"{topic}.to-student"


def partition_for(sequence: int, partitions: int) -> int:
    """The partition for record `sequence` of any pass."""
    return sequence % partitions


def first_in(partition: int, sequence: int, partitions: int) -> int:
    """The first record number from `sequence` on that lies in the partition."""
    return sequence + (partition - sequence) % partitions
