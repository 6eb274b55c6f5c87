"""The memory of one teacher's rows of a batch, filled in any order.

Dense rows are read or copied straight to their place in the batch. Ragged rows are kept as pieces
of their own memory, and put in order at the end. No I/O, threads or clocks.
"""

from __future__ import annotations

from tutelage.consumers.position import Position, ResumeIndex
from tutelage.consumers.stages.batch_limit import batch_too_large
from tutelage.consumers.stages.chunk import Chunk
from tutelage.consumers.stages.column_buffer import ChunkBuffers
from tutelage.consumers.stages.ragged import concatenate
from tutelage.schemas.record import Description, Ragged, Record

# Nothing is resumed behind rows that were taken out of order.
_NO_RESUME = ResumeIndex(start=Position(), spans=())


class BatchRows:
    """Collects the rows of one batch.

    Args:
        description: Key -> dtype and row shape of the teacher.
        rows: The rows of the batch.
        batch_bytes: The memory that a batch may take.

    Raises:
        BatchTooLarge: The dense keys alone would take more.
    """

    def __init__(self, description: Description, rows: int, batch_bytes: int) -> None:
        self.rows = rows
        self._limit = batch_bytes
        self._buffers = buffers = ChunkBuffers(description)
        self._ragged: dict[str, list[tuple[int, Ragged]]] = {
            column.key: [] for column in buffers.columns if column.ragged
        }
        self._held_bytes = rows * buffers.row_bytes
        self._check_size(rows)
        buffers.allocate(rows)
        #: Per key, in the order of the schema: the memory of its dense rows; empty if it is ragged.
        self.memory = [column.writable(0, rows) for column in buffers.columns]

    @property
    def row_bytes(self) -> list[int]:
        """Per key, in the order of the schema: the bytes of a dense row, 0 for ragged ones."""
        return [column.row_bytes for column in self._buffers.columns]

    def add_ragged(self, key: str, at: int, rows: Ragged) -> None:
        """Take rows of a ragged key, in memory of their own.

        Args:
            key: The key.
            at: The batch's row where they begin.
            rows: The rows.

        Raises:
            BatchTooLarge: The batch takes more memory than it may.
        """
        self._held_bytes += rows.values.nbytes
        self._ragged[key].append((at, rows))
        if self._held_bytes > self._limit:
            self._check_size(len(self._ragged[key]))

    def add(self, record: Record, start: int, stop: int, at: int) -> None:
        """Copy the rows `start` to `stop` of a decoded record to row `at` of the batch.

        Raises:
            BatchTooLarge: The batch takes more memory than it may.
        """
        for column in self._buffers.columns:
            values = record.columns[column.key]
            if isinstance(values, Ragged):
                rows = values.rows(start, stop)
                # A view would keep the whole record in memory.
                own = Ragged(concatenate([rows.values]), rows.lengths.copy())
                self.add_ragged(column.key, at, own)
            else:
                column.put(values, start, stop, at)

    def chunk(self) -> Chunk:
        """The rows, as the stages of a student take them."""
        columns = self._buffers.columns
        return Chunk(
            rows=self.rows,
            resume=_NO_RESUME,
            dense={
                column.key: column.dense(0, self.rows) for column in columns if not column.ragged
            },
            ragged={
                key: sorted(pieces, key=lambda piece: piece[0])
                for key, pieces in self._ragged.items()
            },
            reads=[],
        )

    def _check_size(self, rows: int) -> None:
        """Raise BatchTooLarge if the rows that are there, or will be, exceed the limit."""
        if self._held_bytes <= self._limit:
            return
        sizes = {
            column.key: column.row_bytes * self.rows
            or sum(piece.values.nbytes for _, piece in self._ragged[column.key])
            for column in self._buffers.columns
            if column.row_bytes or column.ragged
        }
        key = max(sizes, key=lambda each: sizes[each])
        raise batch_too_large(
            key,
            rows=rows,
            longest=None,
            nbytes=sizes[key],
            total=self._held_bytes,
            limit=self._limit,
            enough=self._held_bytes * self.rows // max(1, rows),
        )
