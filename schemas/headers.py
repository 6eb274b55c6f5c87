"""The identity of a stream <-> Kafka headers, or the metadata of an Avro file.

Each field is one entry, and each value is JSON in UTF-8. Two more entries hold the version of the
format and the fingerprint of the description. From them a reader knows, before it decodes anything,
whether it can read the records, and whether it has the schema that they were written with. Knows
neither Kafka nor files.
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
# The only header that may be missing: most streams have no hidden states.
_HEAD = "head"
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

# Fields of `Stream` whose headers have other names.
_RENAMED = {"inputs_fingerprint": "inputs"}
_FIELD_OF = {header: field for field, header in _RENAMED.items()}
# The largest count that a teacher's arguments allow.
_MAX_COUNT = 2**31 - 1
# The end of the year 9999, the last that Python's calendar has.
_LAST_SECOND = 253_402_300_799

Headers = Iterable[tuple[str, Any]] | Mapping[str, Any]


def stream_headers(stream: Stream, description: Description) -> list[tuple[str, bytes]]:
    """Encode the headers that every record of a stream has, always in the same order."""
    values: dict[str, object] = {_FORMAT: FORMAT_VERSION}
    values |= {_RENAMED.get(name, name): getattr(stream, name) for name in Stream.__slots__}
    if not stream.head:
        del values[_HEAD]
    values[_DESCRIPTION] = description.fingerprint()
    return [
        (HEADER_PREFIX + name, json.dumps(value, ensure_ascii=False).encode())
        for name, value in values.items()
    ]


def header_checksum(stream: Stream, description: Description) -> bytes:
    """The value under CHECKSUM_KEY in a file: xxh3-64, in hexadecimal, of all header values.

    Avro has no checksum of a file's header, where one changed bit could turn three passes into two.
    Messages need none, because brokers have their own.
    """
    return xxhash.xxh3_64_hexdigest(
        b"".join(value for _, value in stream_headers(stream, description))
    ).encode()


def stream_from_headers(headers: Headers, where: str, limits: Limits = DEFAULT_LIMITS) -> Stream:
    """Decode the identity of a stream.

    Raises:
        UnsupportedFormat: The records have a version of the format that this program does not read.
        CorruptData: A header is missing, is not JSON, has an impossible value, or names more
            partitions than the limit. The message names `where`.
    """
    found = dict(headers)
    check_format(found, where)
    values = {name: _value(found, name, kind, where) for name, kind in _FIELD_TYPES.items()}
    if HEADER_PREFIX + _HEAD in found:
        values[_HEAD] = _value(found, _HEAD, str, where)
    stream = Stream(**{_FIELD_OF.get(name, name): value for name, value in values.items()})
    for name in ("partitions", "rows_per_record", "passes"):
        if not 1 <= (count := getattr(stream, name)) <= _MAX_COUNT:
            raise CorruptData(
                f"{where}: header {HEADER_PREFIX}{name} is {_shortened(count)}; it must be from 1 "
                f"to {_MAX_COUNT}"
            )
    if stream.partitions > limits.partitions:
        raise CorruptData(
            f"{where}: header {HEADER_PREFIX}partitions is {stream.partitions}, over the limit of "
            f"{limits.partitions}; if the number is right, read it with "
            f"Limits(partitions={stream.partitions})"
        )
    if not is_time(stream.created):
        raise CorruptData(
            f"{where}: header {HEADER_PREFIX}created is {stream.created!r}, which is not a time "
            "that a teacher could have started at"
        )
    return stream


def is_time(seconds: float) -> bool:
    """Whether a number of seconds since the epoch is within the range of the calendar."""
    return -_LAST_SECOND <= seconds <= _LAST_SECOND


def check_format(headers: Headers, where: str) -> None:
    """Check that the headers name the version of the format that this program reads.

    Raises:
        UnsupportedFormat: They name another version.
        CorruptData: They name none.
    """
    found = dict(headers)
    if HEADER_PREFIX + _FORMAT not in found and HEADER_PREFIX + "run_id" in found:
        raise UnsupportedFormat(
            f"{where}: format 1, written by a Tutelage from before its first release; this one "
            f"reads format {FORMAT_VERSION}. Let the teacher write it again"
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
    """Check that a description is the one that the records were written with.

    Raises:
        SchemaError: The headers hold another fingerprint.
    """
    written = _value(dict(headers), _DESCRIPTION, str, where)
    if written != description.fingerprint():
        raise SchemaError(
            f"{where}: the schema that was found for it holds {description}, which is not what its "
            f"teacher wrote (fingerprint {description.fingerprint()}, its header says "
            f"{written!r}). Was the registry reset or restored, so that this schema id "
            "belongs to another schema now?"
        )


def run_from_headers(headers: Headers) -> tuple[str, float] | None:
    """Read the run id and the creation time; None if one is missing or impossible."""
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
    """Decode the value of a header; None if it is missing or is not JSON."""
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
        # Rejects what JSON in UTF-8 cannot represent: lone surrogates, NaN and infinity.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise CorruptData(
            f"{where}: header {header} is not JSON in UTF-8 ({_shortened(found[header])})"
        ) from error
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise CorruptData(
            f"{where}: header {header} is {_shortened(found[header])}, not {_KINDS[kind]}"
        )
    number: Any = value
    try:
        return float(number) if kind is float else number
    except OverflowError as error:
        raise CorruptData(f"{where}: header {header} is a number without end") from error


_KINDS = {str: "a JSON string", int: "a JSON integer", float: "a JSON number"}
_MAX_SHOWN = 80


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
