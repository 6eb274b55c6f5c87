"""The head of a record <-> Avro bytes: everything before the data of its keys.

Knows neither the keys nor whether the checksum is right.
"""

from __future__ import annotations

from tutelage.schemas.record import End, RecordHead
from tutelage.schemas.varint import decode_long, decode_span, encode_long

_CHECKSUM_BYTES = 8
#: The largest head, without the run id: nine numbers of up to ten bytes each, and the checksum.
MAX_FIXED_HEAD_BYTES = 98


def encode_head(head: RecordHead, checksum: bytes) -> bytes:
    """Encode a head with the checksum of its record."""
    run_id = head.run_id.encode()
    numbers = (head.pass_index, head.sequence, head.rows, head.generation)
    end = (
        b"\x00"
        if head.end is None
        else b"\x02" + encode_long(head.end.records) + encode_long(head.end.rows)
    )
    return b"".join((encode_long(len(run_id)), run_id, *map(encode_long, numbers), checksum, end))


def decode_head(view: memoryview) -> tuple[RecordHead, bytes, int]:
    """Decode the head at the beginning of a record.

    Returns:
        The head, the record's checksum, and the position of the first key.

    Raises:
        ValueError: The bytes are not a head.
        IndexError: The bytes end inside the head.
    """
    start, position = decode_span(view, 0)
    run_id = str(view[start:position], "utf-8")
    pass_index, position = decode_long(view, position)
    sequence, position = decode_long(view, position)
    rows, position = decode_long(view, position)
    generation, position = decode_long(view, position)
    checksum = bytes(view[position : position + _CHECKSUM_BYTES])
    branch, position = decode_long(view, position + _CHECKSUM_BYTES)
    end = None
    if branch == 1:
        records, position = decode_long(view, position)
        end_rows, position = decode_long(view, position)
        end = End(records=records, rows=end_rows)
    if (
        branch not in (0, 1)
        or min(pass_index, sequence, rows, generation) < 0
        or (end and min(end.records, end.rows) < 0)
    ):
        raise ValueError(
            f"a head of pass {pass_index}, sequence {sequence}, {rows} rows, branch {branch}"
        )
    head = RecordHead(
        run_id=run_id,
        pass_index=pass_index,
        sequence=sequence,
        rows=rows,
        generation=generation,
        end=end,
    )
    return head, checksum, position
