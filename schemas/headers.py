"""A stream's identity <-> Kafka headers, or the metadata of an Avro file: one entry a field, each value UTF-8 JSON.

Beside the identity stand the version of the format and the fingerprint of the description, so that a reader finds out before it
decodes anything whether it can read the records, and whether the schema it was given is the one they were written with.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import xxhash

from tutelage.schemas.errors import CorruptData, SchemaError, UnsupportedFormat
from tutelage.schemas.limits import DEFAULT_LIMITS, Limits
from tutelage.schemas.record import FORMAT_VERSION, Description, Stream

HEADER_PREFIX = "tutelage."
CHECKSUM_KEY = HEADER_PREFIX + "checksum"
_FORMAT = "format"
_DESCRIPTION = "description"
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

# Fields of `Stream` whose header has another name.
_RENAMED = {"inputs_fingerprint": "inputs"}
_FIELD_OF = {header: field for field, header in _RENAMED.items()}
# What a teacher's own arguments may be at most, and the last second of the year 9999, where calendars end.
_MOST = 2**31 - 1
_LAST_SECOND = 253_402_300_799

Headers = Iterable[tuple[str, Any]] | Mapping[str, Any]


def stream_headers(stream: Stream, description: Description) -> list[tuple[str, bytes]]:
    """The headers of every record of a stream, always in the same order."""
    values: dict[str, object] = {_FORMAT: FORMAT_VERSION}
    values |= {_RENAMED.get(name, name): getattr(stream, name) for name in Stream.__slots__}
    values[_DESCRIPTION] = description.fingerprint()
    return [
        (HEADER_PREFIX + name, json.dumps(value, ensure_ascii=False).encode())
        for name, value in values.items()
    ]


def identity_checksum(stream: Stream, description: Description) -> bytes:
    """What a file keeps under CHECKSUM_KEY: xxh3-64, in hexadecimal, of the values of all headers, one behind the other.

    A file's header has no checksum of its own, and one changed bit could turn three passes into two. Brokers check theirs.
    """
    return xxhash.xxh3_64_hexdigest(
        b"".join(value for _, value in stream_headers(stream, description))
    ).encode()


def stream_of_headers(headers: Headers, where: str, limits: Limits = DEFAULT_LIMITS) -> Stream:
    """The identity that headers hold.

    Raises:
        UnsupportedFormat: The records are of another version of the format than this program reads.
        CorruptData: A header is missing, is not JSON, or holds a value that it cannot have, or more partitions than the limit.
    """
    found = dict(headers)
    check_format(found, where)
    values = {name: _value(found, name, kind, where) for name, kind in _FIELD_TYPES.items()}
    stream = Stream(**{_FIELD_OF.get(name, name): value for name, value in values.items()})
    for name in ("partitions", "rows_per_record", "passes"):
        if not 1 <= (count := getattr(stream, name)) <= _MOST:
            raise CorruptData(
                f"{where}: header {HEADER_PREFIX}{name} is {_shown(count)}; it must be from 1 to {_MOST}"
            )
    if stream.partitions > limits.partitions:
        raise CorruptData(
            f"{where}: header {HEADER_PREFIX}partitions is {stream.partitions}, over the limit of {limits.partitions}; where that many are "
            f"meant, read it with Limits(partitions={stream.partitions})"
        )
    if not is_time(stream.created):
        raise CorruptData(
            f"{where}: header {HEADER_PREFIX}created is {stream.created!r}, which is no time that a teacher could have begun"
        )
    return stream


def is_time(seconds: float) -> bool:
    """Whether a number is seconds since the epoch of a time that clocks and calendars have."""
    return -_LAST_SECOND <= seconds <= _LAST_SECOND


def check_format(headers: Headers, where: str) -> None:
    """UnsupportedFormat unless the headers name the version of the format that this program reads."""
    found = dict(headers)
    if HEADER_PREFIX + _FORMAT not in found and HEADER_PREFIX + "run_id" in found:
        raise UnsupportedFormat(
            f"{where}: format 1, written by a Tutelage from before its first release; this one reads format {FORMAT_VERSION}. "
            "Let the teacher write it again"
        )
    version = _value(found, _FORMAT, int, where)
    if version != FORMAT_VERSION:
        advice = (
            "Install a newer Tutelage to read it"
            if version > FORMAT_VERSION
            else "Let the teacher write it again"
        )
        writer = json_or_none(found.get(HEADER_PREFIX + "version"))
        by = f", written by Tutelage {writer}" if isinstance(writer, str) else ""
        raise UnsupportedFormat(
            f"{where}: format {version}{by}; this Tutelage reads format {FORMAT_VERSION}. {advice}"
        )


def check_description(headers: Headers, description: Description, where: str) -> None:
    """SchemaError unless a schema's description is the one that the headers say the records were written with."""
    written = _value(dict(headers), _DESCRIPTION, str, where)
    if written != description.fingerprint():
        raise SchemaError(
            f"{where}: the schema that was found for it holds {description}, which is not what its teacher wrote (fingerprint "
            f"{description.fingerprint()}, its header says {written!r}). Does the registry give this schema id to another schema than before, "
            "as one that was reset or restored does?"
        )


def run_of_headers(headers: Headers) -> tuple[str, float] | None:
    """The run that a record's headers name and when that was created; None where they name none, or a time that cannot be."""
    found = dict(headers)
    run_id, created = (
        json_or_none(found.get(f"{HEADER_PREFIX}run_id")),
        json_or_none(found.get(f"{HEADER_PREFIX}created")),
    )
    if (
        not isinstance(run_id, str)
        or isinstance(created, bool)
        or not isinstance(created, (int, float))
        or not is_time(created)
    ):
        return None
    return run_id, created


def json_or_none(value: Any) -> Any:
    """What a header's value holds; None where it is missing or is not JSON."""
    try:
        return json.loads(value or b"")
    except (ValueError, RecursionError):
        return None


def _value(found: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    header = HEADER_PREFIX + name
    if found.get(header) is None:
        raise CorruptData(f"{where}: header {header} is missing; no Tutelage teacher wrote this")
    value: Any
    try:
        value = json.loads(found[header])
        # Text that no encoding can carry again and times that are no numbers are as broken as what is no JSON.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise CorruptData(
            f"{where}: header {header} is not JSON in UTF-8 ({_shown(found[header])})"
        ) from error
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise CorruptData(
            f"{where}: header {header} is {_shown(found[header])}, not {_KINDS[kind]}"
        )
    number: Any = value
    try:
        return float(number) if kind is float else number
    except OverflowError as error:
        raise CorruptData(f"{where}: header {header} is a number without end") from error


_KINDS = {str: "a JSON string", int: "a JSON integer", float: "a JSON number"}
_SHOWN = 80


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
