"""Record <-> Avro bytes, for the schema of one stream, without copying tensors.

`encode` returns buffers that are joined or written one after the other; `decode` returns arrays
that are views of the bytes. Knows no files and no framing.

Avro is encoded and decoded here, and not by fastavro, because the schema has one fixed form and
this is the hot path: fastavro's readers copy each tensor twice (measured in docs/format.md).
`tests/schemas/test_codec.py` compares this codec with fastavro in both directions.

The checksum is xxh3-64, in canonical (big-endian) byte order, of these parts in this order:

- the version of the format (int64 little-endian);
- the description (`Description.canonical_bytes`);
- the head: `pass, sequence, rows, generation, end.records, end.rows` (int64 little-endian; -1 for
  the last two where there is no end);
- the run id in UTF-8;
- the shape of each key, in the schema's order (int64 little-endian);
- the data of each key, in the same order (of a ragged key: lengths, then values).

The description is part of it so that a record decoded with another schema of the same layout fails.
The checksum covers values, not Avro's bytes, so that another Avro library may rewrite a record.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from tutelage.schemas.errors import CorruptData, SchemaError
from tutelage.schemas.limits import DEFAULT_LIMITS, Limits
from tutelage.schemas.record import FORMAT_VERSION, Array, Column, Description, Record, RecordHead
from tutelage.schemas.record_head import MAX_FIXED_HEAD_BYTES, decode_head, encode_head
from tutelage.schemas.tensor_layout import (
    DenseLayout,
    build_column,
    decode_shape,
    dense_layout,
    encode_key,
)
from tutelage.schemas.varint import decode_span

_HEAD = struct.Struct("<6q")
_VERSION = struct.Struct("<q")
_SMALL_BYTES = 512
# A run's records have R rows, the last one of a pass fewer: few layouts are in use at a time.
_MAX_LAYOUTS = 8

Buffer = memoryview | bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """An encoded record.

    Args:
        head: Its head.
        buffers: Its Avro body, in pieces.
        nbytes: The length of the body.
    """

    head: RecordHead
    buffers: Sequence[Any]
    nbytes: int

    def joined(self) -> bytes:
        """Join the buffers to the body."""
        return b"".join(self.buffers)


class Codec:
    """Encodes and decodes the records of one stream. Any number of threads may share it.

    Guarantee: `decode` returns what `encode` was given, or raises CorruptData.
    """

    def __init__(
        self, description: Description, *, verify: bool = True, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self.description = description
        self._stored = description.stored
        self._seed = xxhash.xxh3_64(_VERSION.pack(FORMAT_VERSION) + description.canonical_bytes())
        self._limits = limits
        self.verify = verify
        # A cache: rows -> layout.
        self._layouts: dict[int, DenseLayout] = {}

    def encode(self, head: RecordHead, columns: Mapping[str, Sequence[Column]]) -> Encoded:
        """Encode one record.

        Args:
            head: The record's head.
            columns: Key -> its rows in order, in pieces, as they are stored: arrays [n, *inner]
                of a dense key, `Ragged` of a ragged key. Empty for an end record.

        Raises:
            SchemaError: The record has more rows without data than readers accept.
        """
        parts: list[bytes | Array] = []
        shapes: list[int] = []
        for spec in self._stored.specs:
            key_parts, shape = encode_key(spec, columns.get(spec.key, ()), head.rows)
            parts += key_parts
            shapes += shape
        checksum = self._checksum(
            head, shapes, [part.data for part in parts if isinstance(part, np.ndarray)]
        )
        # Small parts are joined: a system call or a join is faster with few, long buffers.
        buffers: list[Any] = []
        pending = encode_head(head, checksum)
        for part in parts:
            if isinstance(part, bytes) or part.nbytes < _SMALL_BYTES:
                pending += part if isinstance(part, bytes) else part.tobytes()
            else:
                buffers += (pending, part) if pending else (part,)
                pending = b""
        if pending:
            buffers.append(pending)
        nbytes = sum(len(buffer) for buffer in buffers)
        if self._has_too_many_rows(head.rows, nbytes):
            raise SchemaError(
                f"{head} has {head.rows:,} rows of keys that hold nothing ({self.description}), "
                f"more than the {self._limits.empty_rows:,} that readers accept; choose a smaller "
                "rows_per_record, or leave these keys out"
            )
        return Encoded(head=head, buffers=buffers, nbytes=nbytes)

    def decode(self, body: memoryview | bytes, where: str) -> Record:
        """Decode and verify the record in a body.

        Raises:
            CorruptData: The body is cut, too long, inconsistent or fails its checksum. The message
                names `where`.
        """
        view = memoryview(body)
        if len(view) > self._limits.record_bytes:
            raise CorruptData(
                f"{where}: a record of {len(view)} bytes is over the limit of "
                f"{self._limits.record_bytes}"
            )
        try:
            record, end = self._decode_record(view, where)
        except (IndexError, ValueError, OverflowError) as error:
            raise CorruptData(
                f"{where}: the record does not decode ({error}); its bytes were changed or cut"
            ) from error
        if end != len(view):
            raise CorruptData(f"{where}: {len(view) - end} extra bytes follow the record")
        return record

    def decode_each(self, payload: memoryview, count: int, where: str) -> Iterator[Record]:
        """Decode the `count` records that make up a payload, one at a time.

        A decoded record takes about 1 KB besides its data, and a payload may hold millions of
        records. Each record is yielded only after the next one has decoded, or after the end of
        the payload was checked: a reader stops at the end of the run, and would otherwise miss
        damage behind it.

        Raises:
            CorruptData: A record does not decode, or bytes follow the last one.
        """
        position = 0
        before: Record | None = None
        for index in range(count):
            try:
                record, length = self._decode_record(
                    payload[position:], f"{where}, record {index} of the block"
                )
            except (IndexError, ValueError, OverflowError) as error:
                raise CorruptData(
                    f"{where}, record {index} of the block does not decode ({error})"
                ) from error
            position += length
            if index == count - 1 and position != len(payload):
                raise CorruptData(
                    f"{where}: {len(payload) - position} extra bytes follow its {count} records"
                )
            if before is not None:
                yield before
            before = record
        if before is not None:
            yield before

    def dense_layout(self, rows: int) -> DenseLayout | None:
        """The layout of a record of `rows` rows; None if a key is ragged or `rows` is 0."""
        found = self._layouts.get(rows)
        if found is None:
            if not rows or any(spec.ragged for spec in self._stored.specs):
                return None
            found = dense_layout(self._stored, rows)
            if len(self._layouts) > _MAX_LAYOUTS:
                self._layouts.clear()
            self._layouts[rows] = found
        return found

    def max_record_bytes(self, rows: int, run_id: str) -> int | None:
        """The size limit of this run's records of up to `rows` rows; None if a key is ragged."""
        layout = self.dense_layout(rows)
        return (
            len(run_id.encode()) + MAX_FIXED_HEAD_BYTES + layout.nbytes
            if layout is not None
            else None
        )

    def check_checksum(
        self,
        head: RecordHead,
        checksum: bytes,
        shapes: Sequence[int],
        pieces: Sequence[Buffer],
        where: str,
    ) -> None:
        """Check that the parts of a record match its checksum, unless `verify` is off.

        Args:
            head: The record's head.
            checksum: The checksum that stands in the record.
            shapes: The shapes of all keys, concatenated.
            pieces: The data of all keys, in order.
            where: Where the record lies, for the message.

        Raises:
            CorruptData: They do not match.
        """
        if self.verify and checksum != self._checksum(head, shapes, pieces):
            raise CorruptData(
                f"{where}: {head} fails its checksum: its bytes were changed after the teacher "
                "wrote them, or its schema is not the one it was written with"
            )

    def _has_too_many_rows(self, rows: int, nbytes: int) -> bool:
        """Whether readers reject so many rows in so few bytes: empty rows cost a writer nothing."""
        return rows > nbytes and rows > self._limits.empty_rows

    def _checksum(self, head: RecordHead, shapes: Sequence[int], pieces: Sequence[Buffer]) -> bytes:
        end = head.end
        numbers = (head.pass_index, head.sequence, head.rows, head.generation)
        digest = self._seed.copy()
        digest.update(_HEAD.pack(*numbers, *((end.records, end.rows) if end else (-1, -1))))
        digest.update(head.run_id.encode() + struct.pack(f"<{len(shapes)}q", *shapes))
        for piece in pieces:
            digest.update(piece)
        return digest.digest()

    def _decode_record(self, view: memoryview, where: str) -> tuple[Record, int]:
        """The record at the beginning of a buffer, and the position after it."""
        head, checksum, position = decode_head(view)
        shapes: list[int] = []
        pieces: list[Array] = []
        columns: dict[str, Column] = {}
        for spec in self._stored.specs:
            lengths: Array | None = None
            if spec.ragged:
                start, position = decode_span(view, position)
                lengths = np.frombuffer(view[start:position], "<i4")
                pieces.append(np.frombuffer(view[start:position], np.uint8))
            shape, position = decode_shape(view, position, self._limits.dimensions)
            start, position = decode_span(view, position)
            data = np.frombuffer(view[start:position], np.uint8)
            shapes += shape
            pieces.append(data)
            if head.end is None:
                columns[spec.key] = build_column(spec, head.rows, shape, data, lengths)
            elif shape or data.size:
                raise ValueError(f"an end record holds data for key {spec.key!r}")
        self.check_checksum(head, checksum, shapes, [piece.data for piece in pieces], where)
        if (head.end is None) != (head.rows > 0):
            raise ValueError(f"{head} of {head.rows} rows")
        if self._has_too_many_rows(head.rows, position):
            raise ValueError(
                f"{head.rows} rows that hold nothing are over the limit of "
                f"{self._limits.empty_rows}"
            )
        return Record(head=head, columns=columns, raw=view[:position]), position
