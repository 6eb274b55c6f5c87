"""Batches of any size -> records of R rows, as slices of the batches. No I/O, threads or clocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tutelage.producers.stages.columns import copied
from tutelage.schemas.record import Column, Ragged


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RecordRows:
    """The rows of one record. Each column is in pieces, which are views of the batches."""

    sequence: int
    rows: int
    columns: Mapping[str, list[Column]] = field(repr=False)


class Gather:
    """Cuts and gathers one pass's batches into records.

    Guarantee: record s holds rows s*R to (s+1)*R, whatever the batches' sizes were; only the last may be shorter. The first
    `skip_rows` rows, a multiple of R, are counted and dropped: they were written before a restart.
    """

    def __init__(self, rows_per_record: int, *, skip_rows: int = 0) -> None:
        self._size = rows_per_record
        self._skip = skip_rows
        self._pending: list[tuple[Mapping[str, Column], int, int]] = []
        self._pending_rows = 0
        self._owned = 0
        self.rows = 0
        self.sequence = skip_rows // rows_per_record

    def pass_over(self, rows: int) -> None:
        """Count rows that were not read at all, because they were written before."""
        self.rows += rows
        self._skip -= rows

    @property
    def skipping(self) -> int:
        """How many rows are still to be dropped."""
        return self._skip

    @property
    def waiting(self) -> int:
        """How many rows wait for a record to fill."""
        return self._pending_rows

    def add(self, columns: Mapping[str, Column], rows: int) -> list[RecordRows]:
        """The records a batch completes."""
        self.rows += rows
        start = min(self._skip, rows)
        self._skip -= start
        full: list[RecordRows] = []
        while start < rows:
            stop = min(rows, start + self._size - self._pending_rows)
            self._pending.append((columns, start, stop))
            self._pending_rows += stop - start
            start = stop
            if self._pending_rows == self._size:
                full.append(self._cut())
        return full

    def finish(self) -> list[RecordRows]:
        """The pass's last, shorter record, if rows are left."""
        return [self._cut()] if self._pending_rows else []

    def own_pending(self) -> None:
        """Copy the rows that wait for a record to fill: the caller may change their memory."""
        for index in range(self._owned, len(self._pending)):
            columns, start, stop = self._pending[index]
            self._pending[index] = (
                {key: _copied(column, start, stop) for key, column in columns.items()},
                0,
                stop - start,
            )
        self._owned = len(self._pending)

    def _cut(self) -> RecordRows:
        keys = self._pending[0][0]
        columns = {
            key: [_sliced(batch[key], start, stop) for batch, start, stop in self._pending]
            for key in keys
        }
        record = RecordRows(sequence=self.sequence, rows=self._pending_rows, columns=columns)
        self.sequence += 1
        self._pending, self._pending_rows, self._owned = [], 0, 0
        return record


def _sliced(column: Column, start: int, stop: int) -> Column:
    return column.rows(start, stop) if isinstance(column, Ragged) else column[start:stop]


def _copied(column: Column, start: int, stop: int) -> Column:
    return copied(_sliced(column, start, stop))
