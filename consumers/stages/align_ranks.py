"""Teachers side by side for one rank of several: its own rows of each batch, and the end for all.

No I/O, threads or clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tutelage.consumers.deal import Deal
from tutelage.consumers.position import Position
from tutelage.consumers.stages.align import Align, Aligned, AlignedEnd, Share
from tutelage.consumers.stages.chunk import Chunk
from tutelage.consumers.stages.order import PassEnd
from tutelage.schemas.errors import LengthMismatch


class NumberedRow(int):
    """The place of a row among those that are given, which messages show as its number in the pass."""

    _number_of: Callable[[int], int]

    @classmethod
    def of(cls, place: int, number_of: Callable[[int], int]) -> NumberedRow:
        """The row at a place; `number_of` says its number in the pass."""
        row = cls(place)
        row._number_of = number_of
        return row

    def __add__(self, rows: int) -> NumberedRow:
        return NumberedRow.of(int(self) + rows, self._number_of)

    def __sub__(self, rows: int) -> NumberedRow:
        return self + -rows

    def __format__(self, form: str) -> str:
        return format(self._number_of(int(self)), form)


class RankAlign(Align):
    """Takes a rank's rows of all teachers.

    Guarantee: as `Align`. Besides, all ranks get equally many batches. A batch is given once it is
    known how many rows it has on all ranks together: that needs the rank's next rows, or the end of
    the pass, unless every batch is said to be whole. The last batch of a pass has fewer rows on some
    ranks, or none.

    Args:
        names: The teachers' names, for messages.
        deal: Which rows are this rank's.
        positions: Where reading begins, one per teacher.
        nothing: Returns a teacher's chunk without rows.
        first_row: The rows of the pass that all ranks had before: whole batches, or all of it.
        truncate: Whether the pass ends at the shortest teacher.
        drop_last: Whether a last batch that is shorter is left out, on all ranks.
        whole_batches: Whether every batch of the pass is whole, so that a batch is given once this
            rank's rows of it have come.
    """

    def __init__(
        self,
        names: Sequence[str],
        deal: Deal,
        positions: Sequence[Position],
        nothing: Sequence[Chunk],
        *,
        first_row: int = 0,
        truncate: bool = False,
        drop_last: bool = False,
        whole_batches: bool = False,
    ) -> None:
        super().__init__(
            names,
            deal.share,
            positions,
            first_row=deal.count(first_row),
            truncate=truncate,
            drop_last=drop_last,
        )
        self._deal = deal
        self._whole_batches = whole_batches
        self._nothing = nothing
        self._global_row = first_row
        # Per teacher: this rank's rows that came, those before the position counted, and how many
        # came that are in no whole batch yet.
        self._came = [self._row] * len(positions)
        self._pending = [0] * len(positions)

    def push(self, teacher: int, item: Chunk | PassEnd) -> None:
        if isinstance(item, Chunk):
            self._came[teacher] += item.rows
            self._pending[teacher] = item.pending
        elif self._whole_batches and item.end.rows % self._deal.batch_size:
            raise LengthMismatch(
                f"teacher {self._names[teacher]} ends its pass with {item.end.rows} rows, which are "
                f"not whole batches of {self._deal.batch_size}; leave out whole_batches"
            )
        super().push(teacher, item)

    def starving(self) -> list[int]:
        return [
            index
            for index, queue in enumerate(self._queues)
            if queue.end is None and self._known_rows(index) < self._next_row
        ]

    @property
    def _next_row(self) -> int:
        """The row behind the next batch, if that is whole."""
        return self._global_row + self._deal.batch_size

    def _known_rows(self, teacher: int) -> int:
        """How many rows the teacher's pass has; at least so many while its end is not known."""
        end = self._queues[teacher].end
        if end is not None:
            return end.end.rows
        if self._whole_batches:
            return self._came[teacher] // self._deal.share * self._deal.batch_size
        came = self._came[teacher] + self._pending[teacher]
        return self._deal.row(came - 1) + 1 if came else 0

    def pop(self) -> Aligned | AlignedEnd:
        known = [self._known_rows(teacher) for teacher in range(len(self._queues))]
        whole = (min(known) - self._global_row) // self._deal.batch_size
        share = self._deal.share
        if whole > 0:
            batches = min(whole, *(queue.rows // share for queue in self._queues))
            return self._take(batches * share, batches * self._deal.batch_size)
        # The end of at least one of them is known, and lies before the end of the next batch.
        if len(set(known)) > 1 and not self._truncate:
            raise self.mismatch()
        left = min(known) - self._global_row
        if left <= 0 or self._drop_last:
            return self._end()
        return self._take(self._deal.count(min(known)) - self._row, left)

    def _length(self, index: int) -> str:
        least = "" if self._queues[index].end is not None else "at least "
        return f"has {least}{self._known_rows(index)} rows"

    def _take(self, rows: int, global_rows: int) -> Aligned:
        first = NumberedRow.of(self._row, self._deal.row)
        shares = (
            tuple(queue.take(rows) for queue in self._queues)
            if rows
            else tuple(Share(chunk=chunk, start=0, rows=0) for chunk in self._nothing)
        )
        self._row += rows
        self._global_row += global_rows
        return Aligned(
            first_row=first,
            rows=rows,
            shares=shares,
            global_rows=global_rows,
            ranks=self._deal.ranks,
        )
