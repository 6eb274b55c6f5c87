"""Where the rows of one uncompressed record lie in its file, key by key.

Reads the few bytes between the tensors, and the lengths of ragged rows; no values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tutelage.schemas.container_format import SYNC_BYTES
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.errors import CorruptData
from tutelage.schemas.record import Array, KeySpec, RecordHead
from tutelage.schemas.record_head import MAX_FIXED_HEAD_BYTES, decode_head
from tutelage.schemas.stored_block import StoredBlock
from tutelage.schemas.tensor_layout import decode_shape
from tutelage.schemas.varint import decode_long

_LENGTH_BYTES = 4
_NUMBER_BYTES = 10
# Python objects of a record, and of each of its keys.
_OBJECT_BYTES = 256


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RecordPlaces:
    """Where the rows of a record lie.

    Args:
        head: The record's head.
        where: The record's place in words, for messages.
        data_at: Per key, the byte of the file where its values begin.
        starts: Per key, int64 `[rows + 1]`: the element of the values where each row begins. None
            for a dense key.
    """

    head: RecordHead
    where: str
    data_at: tuple[int, ...]
    starts: tuple[Array | None, ...]

    @property
    def memory_bytes(self) -> int:
        """The approximate memory that it takes."""
        return _OBJECT_BYTES * (1 + len(self.data_at)) + sum(
            each.nbytes for each in self.starts if each is not None
        )


class _Payload:
    """The bytes of a record in its file, read in small pieces."""

    def __init__(self, reader: ContainerReader, block: StoredBlock, piece_bytes: int) -> None:
        self._reader = reader
        self.where = block.where
        self.at = block.payload_at
        self.nbytes = block.next_offset - SYNC_BYTES - block.payload_at
        self._piece_bytes = piece_bytes

    def read(self, position: int, nbytes: int) -> bytearray:
        """The `nbytes` bytes at a position. ValueError if the record does not hold them."""
        if nbytes < 0 or position + nbytes > self.nbytes:
            raise ValueError(f"{nbytes} bytes announced where {self.nbytes - position} are left")
        piece = bytearray(nbytes)
        self._reader.read_into([piece], self.at + position, self.where)
        return piece

    def peek(self, position: int) -> memoryview:
        """The bytes at a position: as many as any head, shape and number take, if there are."""
        return memoryview(self.read(position, min(self._piece_bytes, self.nbytes - position)))


def locate_rows(
    reader: ContainerReader, block: StoredBlock, specs: tuple[KeySpec, ...]
) -> RecordPlaces:
    """Find the rows of the only record of an uncompressed block.

    Args:
        reader: The file.
        block: The block.
        specs: The tensors as they are stored, in the order of the schema.

    Returns:
        Where they lie.

    Raises:
        CorruptData: What stands between the tensors is not what the schema demands.
        TruncatedData: The file ends inside the block.
    """
    head_bytes = MAX_FIXED_HEAD_BYTES + len(reader.stream.run_id.encode())
    dimensions = reader.limits.dimensions
    # Another library may write each size of a shape as an array block of its own.
    most_sizes = (4 + 3 * max(len(spec.shape) for spec in specs)) * _NUMBER_BYTES
    payload = _Payload(reader, block, max(head_bytes, most_sizes))
    data_at: list[int] = []
    starts: list[Array | None] = []
    try:
        head, _, position = decode_head(payload.peek(0))
        for spec in specs:
            lengths: Array | None = None
            if spec.ragged:
                nbytes, used = decode_long(payload.peek(position), 0)
                if nbytes != head.rows * _LENGTH_BYTES:
                    raise ValueError(f"key {spec.key!r} has {nbytes} bytes of lengths")
                position += used
                lengths = np.frombuffer(payload.read(position, nbytes), "<i4")
                position += nbytes
            peeked = payload.peek(position)
            shape, used = decode_shape(peeked, 0, dimensions)
            nbytes, used = decode_long(peeked, used)
            position += used
            starts.append(_starts_of(spec, head.rows, shape, nbytes, lengths))
            data_at.append(block.payload_at + position)
            position += nbytes
        if position != payload.nbytes:
            raise ValueError(f"{payload.nbytes - position} bytes follow the record")
    except (ValueError, IndexError) as error:
        raise CorruptData(
            f"{block.where}: the record does not decode ({error}); its bytes were changed or cut"
        ) from error
    return RecordPlaces(head=head, where=block.where, data_at=tuple(data_at), starts=tuple(starts))


def _starts_of(
    spec: KeySpec, rows: int, shape: list[int], nbytes: int, lengths: Array | None
) -> Array | None:
    """Where each row of a ragged key begins. ValueError if the sizes do not fit each other."""
    starts: Array | None = None
    elements = rows
    if lengths is not None:
        if rows and lengths.min() < 0:
            raise ValueError(f"key {spec.key!r} has a row of negative length")
        starts = np.zeros(rows + 1, np.int64)
        np.cumsum(lengths, out=starts[1:])
        elements = int(starts[-1])
    expected = math.prod(shape) * spec.wire_dtype.itemsize
    if shape != [elements, *spec.inner] or nbytes != expected:
        raise ValueError(
            f"key {spec.key!r} is {spec} of {elements} elements, but {nbytes} bytes of shape "
            f"{shape} are there"
        )
    return starts
