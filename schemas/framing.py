"""Schema id and Avro body <-> a message in Confluent's wire format.

A message is a zero byte, the schema id as four bytes big-endian, then the body:
https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format
"""

from __future__ import annotations

import struct

from tutelage.schemas.errors import CorruptData

_HEADER = struct.Struct(">bI")
HEADER_BYTES = _HEADER.size


def frame(schema_id: int) -> bytes:
    """The five bytes before a body that was written with this schema."""
    return _HEADER.pack(0, schema_id)


def unframe(message: bytes | None, where: str) -> tuple[int, memoryview]:
    """Split a message.

    Returns:
        The schema id, and the body as a view.

    Raises:
        CorruptData: The message is not in this format. The error names `where`.
    """
    if message is None or len(message) < HEADER_BYTES:
        raise CorruptData(
            f"{where}: a message of {0 if message is None else len(message)} bytes is not a framed "
            "Avro record"
        )
    magic, schema_id = _HEADER.unpack_from(message)
    if magic != 0:
        raise CorruptData(
            f"{where}: the message begins with byte {magic}, not 0; it is not in Confluent's wire "
            "format"
        )
    return schema_id, memoryview(message)[HEADER_BYTES:]
