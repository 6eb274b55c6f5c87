"""Confluent's wire format: a zero byte, the schema id as four bytes big-endian, then the Avro body.

https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format
"""

from __future__ import annotations

import struct

from tutelage.schemas.errors import CorruptData

_HEADER = struct.Struct(">bI")
HEADER_BYTES = _HEADER.size


def frame(schema_id: int) -> bytes:
    """The five bytes that go before a body written with that schema."""
    return _HEADER.pack(0, schema_id)


def unframe(message: bytes | None, where: str) -> tuple[int, memoryview]:
    """The schema id and the body (a view) of a message; CorruptData naming `where` if it has no such frame."""
    if message is None or len(message) < HEADER_BYTES:
        raise CorruptData(
            f"{where}: {0 if message is None else len(message)} bytes are no framed Avro record"
        )
    magic, schema_id = _HEADER.unpack_from(message)
    if magic != 0:
        raise CorruptData(
            f"{where}: the message begins with byte {magic}, not 0; it is not in Confluent's wire format"
        )
    return schema_id, memoryview(message)[HEADER_BYTES:]
