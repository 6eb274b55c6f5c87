"""Names, partitions and headers: where a stream's records lie, and how a stream's identity travels beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import xxhash

from tutelage.schemas.errors import ConfigurationError, CorruptData
from tutelage.schemas.record import Description, Stream

HEADER_PREFIX = "tutelage."
CHECKSUM_KEY = HEADER_PREFIX + "checksum"
_LEGAL_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,200}")


def checked_topic(topic: str) -> str:
    """The topic name itself; ConfigurationError unless Kafka and the names derived from it allow it."""
    if not _LEGAL_TOPIC.fullmatch(topic) or topic in (".", ".."):
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


def stream_headers(stream: Stream) -> list[tuple[str, bytes]]:
    """A stream's identity as Kafka headers or Avro file metadata: one entry a field, values in UTF-8 JSON."""
    return [
        (f"{HEADER_PREFIX}{name}", json.dumps(getattr(stream, name), ensure_ascii=False).encode()) for name in Stream.__slots__
    ]


def identity_checksum(stream: Stream, description: Description) -> bytes:
    """What a file keeps under CHECKSUM_KEY: xxh3-64, in hexadecimal, of who wrote it and what it holds.

    A file's header has no checksum of its own, and one bit of it could make three passes two. Brokers check theirs.
    """
    values = b"".join(value for _, value in stream_headers(stream))
    return xxhash.xxh3_64_hexdigest(values + str(description).encode()).encode()


def stream_of_headers(headers: Iterable[tuple[str, Any]] | Mapping[str, Any], where: str) -> Stream:
    """The identity that headers hold; CorruptData naming `where` if they hold none or a wrong one."""
    found = dict(headers)
    values: dict[str, object] = {}
    for name, kind in _FIELD_TYPES.items():
        try:
            value = json.loads(found.get(HEADER_PREFIX + name) or b"")
            # Text that no encoding could carry again, and times that are none, are as broken as what is no JSON.
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError) as error:
            raise CorruptData(
                f"{where}: header {HEADER_PREFIX}{name} is missing or broken; no Tutelage teacher wrote this"
            ) from error
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise CorruptData(f"{where}: header {HEADER_PREFIX}{name} is {value!r}, not a {kind.__name__}")
        values[name] = value
    stream = Stream(**values)  # type: ignore[arg-type]  # each value was checked against the field's type just above
    if stream.partitions < 1 or stream.rows_per_record < 1 or stream.passes < 1:
        raise CorruptData(
            f"{where}: a stream of {stream.partitions} partitions, {stream.rows_per_record} rows, {stream.passes} passes"
        )
    return stream


_FIELD_TYPES: dict[str, type] = {
    "run_id": str,
    "teacher": str,
    "revision": str,
    "inputs": str,
    "passes": int,
    "partitions": int,
    "rows_per_record": int,
    "created": float,
    "version": str,
}
