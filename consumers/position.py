"""Where reading a stream goes on: one position, and the positions behind every row of a chunk.

A position travels with the data: a chunk, its share of a batch and a merged batch each know where
reading goes on behind any of their rows. Pure: no I/O, threads or clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """Where reading a stream goes on.

    Args:
        pass_index: The pass of the next record.
        sequence: The next record's number in its pass.
        row: How many rows of that record are used already.
        offsets: For each partition, the offset to read from; BEGINNING where nothing was used.
            Empty if none is known.
        before: The records of each pass before this one. Empty if they are not known.
    """

    pass_index: int = 0
    sequence: int = 0
    row: int = 0
    offsets: tuple[int, ...] = ()
    before: tuple[int, ...] = ()

    def records_before(self, partition: int, partitions: int) -> int:
        """How many of the run's messages lie before the position in a partition, at least.

        There are more if records were written twice, or if transactions left markers.

        Args:
            partition: The partition.
            partitions: The stream's partitions.
        """
        # Every partition has the end of every pass.
        return self.pass_index + sum(
            max(0, -(-(records - partition) // partitions))
            for records in (*self.before, self.sequence)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordSpan:
    """The rows of one record in a chunk.

    Args:
        first: The chunk's row at which the record's own row 0 lies, or would lie (negative) if the
            record began in an earlier chunk.
        stop: The row behind its last row in the chunk.
        uses_up: Whether its last row in the chunk is the record's last.
        pass_index: The record's pass.
        sequence: The record's number in the pass.
        partition: The record's partition.
        offset: The record's offset.
        next_offset: The offset behind the record.
        held: Bytes that the rows keep alive outside the chunk's own memory.
    """

    first: int
    stop: int
    uses_up: bool
    pass_index: int
    sequence: int
    partition: int
    offset: int
    next_offset: int
    held: int = 0

    def within(self, start: int, stop: int) -> RecordSpan:
        """The part of it that lies before row `stop`, with rows counted from row `start`."""
        return replace(
            self,
            first=self.first - start,
            stop=min(self.stop, stop) - start,
            uses_up=self.uses_up and self.stop <= stop,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumeIndex:
    """The position behind each row of some rows of one stream. Holds none of their memory.

    Args:
        start: The position before row 0 of the chunk.
        spans: The records that the chunk's rows come from, in order. Empty if the rows are not in
            the order of the stream, so that no position in it is behind them.
        first_row: The chunk's row from which `after` counts.
    """

    start: Position
    spans: tuple[RecordSpan, ...] = field(repr=False)
    first_row: int = 0

    def behind(self, rows: int) -> ResumeIndex:
        """The index of the rows behind the first `rows` rows."""
        return replace(self, first_row=self.first_row + rows) if rows else self

    def after(self, rows: int) -> Position:
        """The position behind the first `rows` rows.

        It stays in this pass behind the pass's last row: the end record is read again then.
        """
        rows += self.first_row
        if not rows or not self.spans:
            return self.start
        offsets = list(self.start.offsets)
        for span in self.spans:
            used_up = span.uses_up and span.stop <= rows
            offsets[span.partition] = span.next_offset if used_up else span.offset
            if span.stop >= rows:
                break
        return Position(
            pass_index=span.pass_index,
            sequence=span.sequence + used_up,
            row=0 if used_up else min(rows, span.stop) - span.first,
            offsets=tuple(offsets),
            before=self.start.before,
        )


def positions_after(indexes: Sequence[ResumeIndex], rows: int) -> tuple[Position, ...]:
    """Each teacher's position behind the first `rows` rows."""
    return tuple(index.after(rows) for index in indexes)
