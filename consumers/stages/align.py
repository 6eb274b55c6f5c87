"""Teachers side by side, sample by sample: the same rows of each, as many batches as all of them have, or an error.

Pure: no I/O, threads or clocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from tutelage.consumers.sources.base import Position
from tutelage.consumers.stages.order import PassEnd
from tutelage.consumers.stages.rebatch import Chunk
from tutelage.schemas.errors import LengthMismatch
from tutelage.schemas.record import Array, Ragged


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Share:
    """One teacher's share of some batches: the rows from `start` on of a chunk."""

    chunk: Chunk = field(repr=False)
    start: int
    rows: int

    def dense(self, key: str) -> Array:
        """The rows of a dense key, [rows, *inner] in the wire dtype."""
        return self.chunk.dense[key][self.start : self.start + self.rows]

    def ragged(self, key: str, start: int, stop: int) -> list[Ragged]:
        """The rows `start` to `stop` of the share, of a ragged key, as pieces."""
        return self.chunk.ragged_rows(key, self.start + start, self.start + stop)

    def after(self, rows: int) -> Position:
        """Where reading would go on behind the share's first `rows` rows."""
        return self.chunk.trail.after(self.start + rows)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Aligned:
    """Some batches' share of every teacher, in the order of registration; `first_row` is their place in the pass.

    All batches have the student's size, but for the last of the pass.
    """

    first_row: int
    rows: int
    shares: tuple[Share, ...]

    def split(self, rows: int) -> tuple[Aligned, Aligned | None]:
        """The first so many rows, and the others if there are any."""
        if rows >= self.rows:
            return self, None
        first = tuple(
            Share(chunk=share.chunk, start=share.start, rows=rows) for share in self.shares
        )
        others = tuple(
            Share(chunk=share.chunk, start=share.start + rows, rows=share.rows - rows)
            for share in self.shares
        )
        return (
            Aligned(first_row=self.first_row, rows=rows, shares=first),
            Aligned(first_row=self.first_row + rows, rows=self.rows - rows, shares=others),
        )


class _Queue:
    """What came of one teacher and was not given yet."""

    def __init__(self, position: Position) -> None:
        self.chunks: deque[Chunk] = deque()
        self.used = 0
        self.end: PassEnd | None = None
        self.position = position

    @property
    def rows(self) -> int:
        """Rows in the chunk that is drawn from."""
        return self.chunks[0].rows - self.used if self.chunks else 0

    def take(self, rows: int) -> Share:
        chunk = self.chunks[0]
        share = Share(chunk=chunk, start=self.used, rows=rows)
        self.used += rows
        self.position = share.after(rows)
        if self.used == chunk.rows:
            self.chunks.popleft()
            self.used = 0
        return share


class Align:
    """Draws batches from all teachers at once.

    Guarantee: row i of a batch is the same sample of every teacher by position; teachers of different length raise
    LengthMismatch before the batch in which they differ, or end at the shorter one if `truncate` was asked for.
    """

    def __init__(
        self,
        names: Sequence[str],
        batch_size: int,
        positions: Sequence[Position],
        *,
        first_row: int = 0,
        truncate: bool = False,
    ) -> None:
        self._names = list(names)
        self._size = batch_size
        self._queues = [_Queue(position) for position in positions]
        self._truncate = truncate
        self.row = first_row

    def push(self, teacher: int, item: Chunk | PassEnd) -> None:
        """Take a teacher's next chunk, or the end of its pass."""
        if isinstance(item, PassEnd):
            self._queues[teacher].end = item
        else:
            self._queues[teacher].chunks.append(item)

    def starving(self) -> list[int]:
        """The teachers whose next batch is not there yet."""
        return [
            index
            for index, queue in enumerate(self._queues)
            if queue.rows < self._size and queue.end is None
        ]

    def pop(self) -> Aligned | None:
        """The next batches; None when the pass is over. Only when nobody starves."""
        ready = [queue.rows for queue in self._queues]
        rows = min(ready) - min(ready) % self._size
        if not rows:
            # The last batch of at least one of them.
            ready = [min(count, self._size) for count in ready]
            rows = min(ready)
            if len(set(ready)) > 1 and not self._truncate:
                raise self.mismatch()
            if not rows:
                return None
        aligned = Aligned(
            first_row=self.row, rows=rows, shares=tuple(queue.take(rows) for queue in self._queues)
        )
        self.row += rows
        return aligned

    def ended(self, teacher: int) -> bool:
        """Whether the end of a teacher's pass was seen."""
        return self._queues[teacher].end is not None

    def after_pass(self) -> tuple[Position, ...]:
        """Where each teacher's next pass begins; a place before it where the end was not reached (truncated)."""
        return tuple(
            queue.end.next_pass if queue.end is not None else queue.position
            for queue in self._queues
        )

    def mismatch(self) -> LengthMismatch:
        """The error for teachers of different length, as far as their lengths are known."""
        lengths = ", ".join(
            f"{name} {self._length(index)}" for index, name in enumerate(self._names)
        )
        return LengthMismatch(
            f"the teachers differ in length: {lengths}; ask for on_length_mismatch='truncate' to end at the shortest"
        )

    def _length(self, index: int) -> str:
        queue = self._queues[index]
        return (
            f"has {queue.end.end.rows} rows"
            if queue.end is not None
            else f"has at least {self.row + queue.rows} rows"
        )
