"""Record <-> Avro bytes, for one stream's schema, without copying tensors.

Encoding gives buffers to be joined or written one after the other; decoding gives arrays that are views into the bytes.
It is our own walk because the shape is closed and the way is hot: fastavro's readers copy each tensor twice (measured in
docs/format.md), and `tests/schemas/test_codec.py` holds this walk against fastavro in both directions.

The checksum is xxh3-64, in canonical (big-endian) order, of: the version of the format (int64 little-endian), the description
(`Description.canonical_bytes`), the head as `pass, sequence, rows, generation, end.records, end.rows` (int64 little-endian, -1 where
there is no end), the run id in UTF-8, then for each key in the schema's order its shape (int64 little-endian), and then all data
(ragged: lengths, then values) in the same order. The description is part of it, so that a record that is decoded with another
schema of the same layout fails. It covers values, not Avro's bytes, so that a record may be written again by another Avro library.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import xxhash

from tutelage.schemas.errors import CorruptData, SchemaError
from tutelage.schemas.limits import DEFAULT_LIMITS, Limits
from tutelage.schemas.record import (
    FORMAT_VERSION,
    Array,
    Column,
    Description,
    End,
    KeySpec,
    Ragged,
    Record,
    RecordHead,
)
from tutelage.schemas.varint import decode_long, encode_long

_HEAD = struct.Struct("<6q")
_VERSION = struct.Struct("<q")
_CHECKSUM_BYTES = 8
_SMALL_BYTES = 512
# A run's records have R rows, a pass's last one fewer: few layouts are in use at a time.
_LAYOUTS_KEPT = 8
# Nine numbers of at most ten bytes each and the checksum, besides the run id.
_MOST_HEAD_BYTES = 98

Buffer = memoryview | bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseLayout:
    """A record whose tensors all have a known size, as it lies behind its head: `prefixes[i]`, then `sizes[i]` bytes of key i.

    `shapes` are the shapes of all keys one behind the other, and `nbytes` is the length of all of it.
    """

    prefixes: tuple[bytes, ...]
    sizes: tuple[int, ...]
    shapes: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """An encoded record: its head, and buffers that one after the other are its Avro body of `nbytes` bytes."""

    head: RecordHead
    buffers: Sequence[Any]
    nbytes: int

    def joined(self) -> bytes:
        """The body as one string of bytes."""
        return b"".join(self.buffers)


def as_bytes(array: Array) -> Array:
    """An array's bytes as a flat uint8 view; a copy only if it is not contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


class Codec:
    """Encodes and decodes the records of one stream. Holds no state between calls: safe in any number of threads.

    Guarantee: what `decode` returns is what `encode` was given, or it raises CorruptData.
    """

    def __init__(
        self, description: Description, *, verify: bool = True, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self.description = description
        self._seed = xxhash.xxh3_64(_VERSION.pack(FORMAT_VERSION) + description.canonical_bytes())
        self._limits = limits
        self.verify = verify
        self._layouts: dict[int, DenseLayout] = {}

    def encode(self, head: RecordHead, columns: Mapping[str, Sequence[Column]]) -> Encoded:
        """Encode one record whose columns are given as pieces of rows in order, in their wire dtype.

        The pieces of a dense key are arrays [n, *inner]; those of a ragged key are `Ragged`. An end record takes no columns.
        """
        parts: list[bytes | Array] = []
        shapes: list[int] = []
        for spec in self.description.specs:
            key_parts, shape = _laid_out(spec, columns.get(spec.key, ()), head.rows)
            parts += key_parts
            shapes += shape
        checksum = self._checksum(
            head, shapes, [part.data for part in parts if isinstance(part, np.ndarray)]
        )
        # Everything small is joined to the bytes before it: a system call or a join has few, long buffers.
        buffers: list[Any] = []
        pending = _encode_head(head, checksum)
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
                f"{head} has {head.rows:,} rows of keys that hold nothing ({self.description}), more than the {self._limits.empty_rows:,} that "
                "readers take; choose a smaller rows_per_record, or leave these keys out"
            )
        return Encoded(head=head, buffers=buffers, nbytes=nbytes)

    def decode(self, body: memoryview | bytes, where: str) -> Record:
        """The record in a body. CorruptData naming `where` if it is cut, too long, inconsistent or fails its checksum."""
        view = memoryview(body)
        if len(view) > self._limits.record_bytes:
            raise CorruptData(
                f"{where}: a record of {len(view)} bytes is over the limit of {self._limits.record_bytes}"
            )
        try:
            record, end = self._walk(view, where)
        except (IndexError, ValueError, OverflowError) as error:
            raise CorruptData(
                f"{where}: the record does not decode ({error}); its bytes were changed or cut"
            ) from error
        if end != len(view):
            raise CorruptData(f"{where}: {len(view) - end} bytes are left behind the record")
        return record

    def decode_each(self, payload: memoryview, count: int, where: str) -> Iterator[Record]:
        """The `count` records that lie one behind the other in a payload, and nothing else in it.

        Each is decoded when it is asked for: a decoded record takes about 1 KB besides its data, and a payload may hold millions of them.
        None is given before the next one is decoded, or the payload has ended behind it: a reader stops at the end of the run, and what
        is broken there would go unnoticed.
        """
        position = 0
        before: Record | None = None
        for index in range(count):
            try:
                record, length = self._walk(
                    payload[position:], f"{where}, record {index} of the block"
                )
            except (IndexError, ValueError, OverflowError) as error:
                raise CorruptData(
                    f"{where}, record {index} of the block does not decode ({error})"
                ) from error
            position += length
            if index == count - 1 and position != len(payload):
                raise CorruptData(
                    f"{where}: {len(payload) - position} bytes are left behind its {count} records"
                )
            if before is not None:
                yield before
            before = record
        if before is not None:
            yield before

    def dense_layout(self, rows: int) -> DenseLayout | None:
        """Where the tensors lie in a record of so many rows; None if a key is ragged, or there are none."""
        found = self._layouts.get(rows)
        if found is None:
            if not rows or any(spec.ragged for spec in self.description.specs):
                return None
            found = _laid_out_densely(self.description, rows)
            if len(self._layouts) > _LAYOUTS_KEPT:
                self._layouts.clear()
            self._layouts[rows] = found
        return found

    def most_bytes(self, rows: int, run_id: str) -> int | None:
        """The most a record of this run with at most so many rows can have; None where a key is ragged, and nobody knows."""
        layout = self.dense_layout(rows)
        return (
            len(run_id.encode()) + _MOST_HEAD_BYTES + layout.nbytes if layout is not None else None
        )

    def refuse_changed(
        self,
        head: RecordHead,
        checksum: bytes,
        shapes: Sequence[int],
        pieces: Sequence[Buffer],
        where: str,
    ) -> None:
        """CorruptData naming `where` unless these parts of a record, pieces of data in order, have its checksum."""
        if self.verify and checksum != self._checksum(head, shapes, pieces):
            raise CorruptData(
                f"{where}: {head} fails its checksum: its bytes were changed after the teacher wrote them, or its schema is not the one it "
                "was written with"
            )

    def _has_too_many_rows(self, rows: int, nbytes: int) -> bool:
        """Whether a record of so many bytes has more rows than a reader takes: rows that hold nothing cost the writer nothing."""
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

    def _walk(self, view: memoryview, where: str) -> tuple[Record, int]:
        head, checksum, position = decode_head(view)
        shapes: list[int] = []
        pieces: list[Array] = []
        columns: dict[str, Column] = {}
        for spec in self.description.specs:
            lengths: Array | None = None
            if spec.ragged:
                start, position = _bytes_at(view, position)
                lengths = np.frombuffer(view[start:position], "<i4")
                pieces.append(np.frombuffer(view[start:position], np.uint8))
            shape, position = _shape_at(view, position, self._limits.dimensions)
            start, position = _bytes_at(view, position)
            data = np.frombuffer(view[start:position], np.uint8)
            shapes += shape
            pieces.append(data)
            if head.end is None:
                columns[spec.key] = _column(spec, head.rows, shape, data, lengths)
            elif shape or data.size:
                raise ValueError(f"an end record holds data for key {spec.key!r}")
        self.refuse_changed(head, checksum, shapes, [piece.data for piece in pieces], where)
        if (head.end is None) != (head.rows > 0):
            raise ValueError(f"{head} of {head.rows} rows")
        if self._has_too_many_rows(head.rows, position):
            raise ValueError(
                f"{head.rows} rows that hold nothing are over the limit of {self._limits.empty_rows}"
            )
        return Record(head=head, columns=columns, raw=view[:position]), position


def _laid_out(
    spec: KeySpec, pieces: Sequence[Column], rows: int
) -> tuple[list[bytes | Array], list[int]]:
    """A key's Avro bytes in order, tensors as flat uint8 arrays and the rest as bytes, and its shape."""
    if not pieces:
        # An end record: every tensor is empty.
        return [encode_long(0) * (3 if spec.ragged else 2)], []
    if not spec.ragged:
        data = [as_bytes(cast("Array", piece)) for piece in pieces]
        shape = [rows, *spec.shape]
        return [
            _encode_shape(shape) + encode_long(sum(piece.nbytes for piece in data)),
            *data,
        ], shape
    ragged = cast("Sequence[Ragged]", pieces)
    lengths = as_bytes(np.concatenate([piece.lengths for piece in ragged]).astype("<i4"))
    data = [as_bytes(piece.values) for piece in ragged]
    shape = [sum(len(piece.values) for piece in ragged), *spec.inner]
    return [
        encode_long(lengths.nbytes),
        lengths,
        _encode_shape(shape) + encode_long(sum(piece.nbytes for piece in data)),
        *data,
    ], shape


def _laid_out_densely(description: Description, rows: int) -> DenseLayout:
    sizes = [rows * math.prod(spec.shape) * spec.storage.itemsize for spec in description.specs]
    shapes = [[rows, *spec.shape] for spec in description.specs]
    prefixes = [
        _encode_shape(shape) + encode_long(size) for shape, size in zip(shapes, sizes, strict=True)
    ]
    return DenseLayout(
        prefixes=tuple(prefixes),
        sizes=tuple(sizes),
        shapes=tuple(size for shape in shapes for size in shape),
        nbytes=sum(map(len, prefixes)) + sum(sizes),
    )


def _column(
    spec: KeySpec, rows: int, shape: Sequence[int], data: Array, lengths: Array | None
) -> Column:
    """A key's column from its parts, all of which must agree with each other and with the description."""
    count = shape[0] if shape else -1
    expected = math.prod(shape) * spec.storage.itemsize
    if tuple(shape[1:]) != spec.inner or count < 0 or expected != data.nbytes:
        raise ValueError(
            f"key {spec.key!r} is {spec}, but {data.nbytes} bytes of shape {list(shape)} were read"
        )
    values = data.view(spec.storage.storage).reshape(shape)
    if lengths is None:
        if count != rows:
            raise ValueError(f"key {spec.key!r} has {count} rows in a record of {rows}")
        return values
    if (
        len(lengths) != rows
        or (rows and lengths.min() < 0)
        or int(lengths.sum(dtype=np.int64)) != count
    ):
        raise ValueError(
            f"key {spec.key!r}: its {len(lengths)} lengths do not add up to {count} elements in {rows} rows"
        )
    return Ragged(values, lengths.astype(np.int64))


def _encode_head(head: RecordHead, checksum: bytes) -> bytes:
    run_id = head.run_id.encode()
    numbers = (head.pass_index, head.sequence, head.rows, head.generation)
    end = (
        b"\x00"
        if head.end is None
        else b"\x02" + encode_long(head.end.records) + encode_long(head.end.rows)
    )
    return b"".join((encode_long(len(run_id)), run_id, *map(encode_long, numbers), checksum, end))


def decode_head(view: memoryview) -> tuple[RecordHead, bytes, int]:
    """A record's head, its checksum, and where the first key begins. ValueError or IndexError if there is none."""
    start, position = _bytes_at(view, 0)
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


def _encode_shape(shape: Sequence[int]) -> bytes:
    """A non-empty array<int> as one block."""
    return b"".join((encode_long(len(shape)), *map(encode_long, shape), b"\x00"))


def _shape_at(view: memoryview, position: int, most: int) -> tuple[list[int], int]:
    """An array<int>, in any number of blocks, with or without their sizes, as other Avro libraries write it."""
    shape: list[int] = []
    while True:
        count, position = decode_long(view, position)
        if count == 0:
            return shape, position
        if count < 0:
            count = -count
            _, position = decode_long(view, position)
        if len(shape) + count > most:
            raise ValueError(f"a shape of {len(shape) + count} sizes")
        for _ in range(count):
            size, position = decode_long(view, position)
            if not 0 <= size < 2**31:
                raise ValueError(f"a size of {size}")
            shape.append(size)


def _bytes_at(view: memoryview, position: int) -> tuple[int, int]:
    """Start and stop of a `bytes` or `string` value."""
    length, position = decode_long(view, position)
    if length < 0 or position + length > len(view):
        raise ValueError(f"{length} bytes announced where {len(view) - position} are left")
    return position, position + length
