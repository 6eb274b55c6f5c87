"""Whole batches of one teacher in one piece of memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from tutelage.consumers.position import Position, ResumeIndex
from tutelage.consumers.stages.column_buffer import ChunkBuffers, slice_pieces
from tutelage.schemas.record import Array, Description, Ragged


@dataclass(kw_only=True, slots=True, eq=False)
class Chunk:
    """Rows of one teacher: whole batches, except in the last chunk of a pass.

    Args:
        rows: How many.
        resume: The position behind each of them.
        dense: Key -> array `[rows, *inner]` in the wire dtype.
        ragged: Key -> pieces in order, each with its first row.
        reads: What must still be read into `dense`, in order, each with its first row. Call `load`
            before the rows are used.
        nbytes: Bytes of the rows.
        memory_bytes: Memory that the chunk takes, with all that it keeps alive.
        load_s: Seconds that `load` took.
        pending: How many rows of the stream have come behind these, less than a batch.
    """

    rows: int
    resume: ResumeIndex
    dense: Mapping[str, Array] = field(repr=False)
    ragged: Mapping[str, list[tuple[int, Ragged]]] = field(repr=False)
    reads: list[tuple[int, Callable[[], None]]] = field(repr=False)
    nbytes: int = 0
    memory_bytes: int = 0
    load_s: float = 0.0
    pending: int = 0

    def load(self) -> None:
        """Read the rows that are still in a file.

        If that fails the chunk keeps the rows before the failure, and the error is raised.
        """
        began = time.perf_counter()
        try:
            while self.reads:
                self.reads[0][1]()
                del self.reads[0]
        except BaseException:
            self.rows = self.reads[0][0]
            raise
        finally:
            self.load_s = time.perf_counter() - began

    def ragged_rows(self, key: str, start: int, stop: int) -> list[Ragged]:
        """The rows `start` to `stop` of a ragged key, as pieces."""
        pieces = self.ragged[key]
        if start == stop:
            # A piece without rows, which has the dtype.
            return [rows.rows(0, 0) for _, rows in pieces[:1]]
        return [rows for _, rows in slice_pieces(pieces, start, stop)]


def chunk_of_nothing(description: Description, position: Position) -> Chunk:
    """Return a chunk without rows.

    Args:
        description: Key -> dtype and row shape of the stream.
        position: The position behind it.
    """
    buffers, none = ChunkBuffers(description), np.empty(0, np.int64)
    buffers.allocate(0)
    return Chunk(
        rows=0,
        resume=ResumeIndex(start=position, spans=()),
        dense={each.key: each.dense(0, 0) for each in buffers.columns if not each.ragged},
        ragged={
            spec.key: [
                (0, Ragged(np.empty((0, *spec.shape[1:]), spec.wire_dtype.numpy_dtype), none))
            ]
            for spec in description.stored.specs
            if spec.ragged
        },
        reads=[],
    )
