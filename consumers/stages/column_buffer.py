"""The rows of one key in the chunk that is being filled.

Dense rows are copied into the chunk's memory. Ragged rows stay in the memory of their records. No
I/O, threads or clocks.
"""

from __future__ import annotations

import math

import numpy as np

from tutelage.schemas.errors import CorruptData
from tutelage.schemas.record import Array, Column, Description, KeySpec, Ragged
from tutelage.schemas.tensor_layout import as_bytes


class ColumnBuffer:
    """Collects one key's rows for a chunk.

    Rows are numbered from 0 at the beginning of the memory that was allocated last.

    Args:
        spec: The stored tensor's dtype and row shape.
    """

    def __init__(self, spec: KeySpec) -> None:
        self.key = spec.key
        self.ragged = spec.ragged
        self._shape = spec.shape
        self._storage = spec.wire_dtype.numpy_dtype
        self.row_bytes = 0 if spec.ragged else math.prod(spec.shape) * self._storage.itemsize
        self._memory: Array = np.empty(0, np.uint8)
        # Ragged rows, each piece with the number of its first row.
        self._pieces: list[tuple[int, Ragged]] = []

    def allocate(self, capacity: int) -> None:
        """Take new memory for `capacity` rows."""
        self._pieces = []
        if not self.ragged:
            self._memory = np.empty(capacity * self.row_bytes, np.uint8)

    def grow(self, capacity: int, filled: int) -> None:
        """Take memory for more rows, and keep the first `filled` rows."""
        if not self.ragged:
            before, self._memory = self._memory, np.empty(capacity * self.row_bytes, np.uint8)
            self._memory[: filled * self.row_bytes] = before[: filled * self.row_bytes]

    def writable(self, start: int, stop: int) -> memoryview:
        """The memory of the rows `start` to `stop`, to be written to."""
        return self._memory.data[start * self.row_bytes : stop * self.row_bytes]

    def put(self, column: Column, start: int, stop: int, at: int) -> None:
        """Copy the rows `start` to `stop` of a record to row `at`, or keep them if they are ragged.

        Raises:
            CorruptData: The column is ragged but the description says dense, or the reverse.
        """
        if isinstance(column, Ragged) != self.ragged:
            raise CorruptData(
                f"key {self.key!r} is {'dense' if self.ragged else 'ragged'} in a record but not "
                "in its description"
            )
        if isinstance(column, Ragged):
            self._pieces.append((at, column.rows(start, stop)))
        elif self.row_bytes:
            size = self.row_bytes
            self._memory[at * size : (at + stop - start) * size] = as_bytes(column[start:stop])

    def dense(self, start: int, stop: int) -> Array:
        """The rows `start` to `stop` of a dense key, `[rows, *inner]` in the wire dtype."""
        size = self.row_bytes
        return (
            self._memory[start * size : stop * size]
            .view(self._storage)
            .reshape(stop - start, *self._shape)
        )

    def pieces(self, start: int, stop: int) -> list[tuple[int, Ragged]]:
        """The rows `start` to `stop` of a ragged key. First rows are counted from `start`."""
        return slice_pieces(self._pieces, start, stop)

    def release(self, stop: int) -> None:
        """Drop the ragged rows before `stop`, which keep their whole records in memory."""
        if self.ragged:
            self._pieces = [
                (first, rows) for first, rows in self._pieces if first + len(rows.lengths) > stop
            ]

    def longest(self, start: int, stop: int) -> int | None:
        """The elements of the longest of the rows `start` to `stop`; None for a dense key."""
        return (
            max((int(rows.lengths.max()) for _, rows in self.pieces(start, stop)), default=0)
            if self.ragged
            else None
        )

    def nbytes(self, start: int, stop: int) -> int:
        """Bytes of the rows `start` to `stop`."""
        return (stop - start) * self.row_bytes + sum(
            rows.values.nbytes for _, rows in self.pieces(start, stop)
        )


class ChunkBuffers:
    """The buffers of all keys of a stream.

    Args:
        description: Key -> dtype and row shape.
    """

    def __init__(self, description: Description) -> None:
        self.columns = [ColumnBuffer(spec) for spec in description.stored.specs]
        #: Bytes of a row's dense keys.
        self.row_bytes = sum(column.row_bytes for column in self.columns)
        #: How many keys are ragged.
        self.ragged_keys = sum(column.ragged for column in self.columns)

    def allocate(self, capacity: int) -> None:
        """Begin a new chunk, with memory for `capacity` rows."""
        for column in self.columns:
            column.allocate(capacity)

    def grow(self, capacity: int, filled: int) -> None:
        """Take memory for `capacity` rows, and keep the first `filled` rows."""
        for column in self.columns:
            column.grow(capacity, filled)

    def release(self, stop: int) -> None:
        """Drop the ragged rows before `stop`, which keep their whole records in memory."""
        for column in self.columns:
            column.release(stop)


def slice_pieces(
    pieces: list[tuple[int, Ragged]], start: int, stop: int
) -> list[tuple[int, Ragged]]:
    """Cut the rows `start` to `stop` out of ragged pieces.

    Args:
        pieces: Pieces in order, each with the number of its first row.
        start: The first row.
        stop: The row behind the last.

    Returns:
        The pieces of these rows. Their first rows are counted from `start`.
    """
    found: list[tuple[int, Ragged]] = []
    for first, rows in pieces:
        last = first + len(rows.lengths)
        if first < stop and last > start:
            found.append(
                (
                    max(first, start) - start,
                    rows.rows(max(start, first) - first, min(stop, last) - first),
                )
            )
    return found
