"""Teachers side by side: the same rows of each, as many batches as all of them have.

No I/O, threads or clocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tutelage.consumers.position import Position, ResumeIndex
from tutelage.consumers.stages.chunk import Chunk
from tutelage.consumers.stages.order import PassEnd
from tutelage.consumers.stages.stage import LastItem
from tutelage.schemas.errors import LengthMismatch
from tutelage.schemas.record import Array, Column, Ragged


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Share:
    """One teacher's share of some batches: rows of a chunk.

    Args:
        chunk: The chunk.
        start: The chunk's row where the share begins.
        rows: How many rows it has.
    """

    chunk: Chunk = field(repr=False)
    start: int
    rows: int

    def dense(self, key: str) -> Array:
        """The rows of a dense key, `[rows, *inner]` in the wire dtype."""
        return self.chunk.dense[key][self.start : self.start + self.rows]

    def ragged(self, key: str, start: int, stop: int) -> list[Ragged]:
        """The share's rows `start` to `stop` of a ragged key, as pieces."""
        return self.chunk.ragged_rows(key, self.start + start, self.start + stop)

    def stored(self, key: str, start: int, stop: int) -> Sequence[Column]:
        """The share's rows `start` to `stop` of a key, as they are stored, in pieces."""
        if key in self.chunk.ragged:
            return self.ragged(key, start, stop)
        return [self.dense(key)[start:stop]]

    @property
    def resume(self) -> ResumeIndex:
        """The position behind each of the share's rows."""
        return self.chunk.resume.behind(self.start)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Aligned:
    """The same rows of every teacher: whole batches, except the last of a pass.

    Args:
        first_row: The number of the first row in the pass.
        rows: How many rows.
        shares: Each teacher's share, in the order of registration.
        global_rows: The rows of the same batches that all ranks have together.
        ranks: How many ranks there are.
    """

    first_row: int
    rows: int
    shares: tuple[Share, ...]
    global_rows: int
    ranks: int = 1

    def split(self, rows: int) -> tuple[Aligned, Aligned | None]:
        """The first `rows` rows, which are whole batches, and the others if there are any."""
        if rows >= self.rows:
            return self, None
        first = tuple(
            Share(chunk=share.chunk, start=share.start, rows=rows) for share in self.shares
        )
        others = tuple(
            Share(chunk=share.chunk, start=share.start + rows, rows=share.rows - rows)
            for share in self.shares
        )
        whole = rows * self.ranks
        return (
            replace(self, rows=rows, shares=first, global_rows=whole),
            replace(
                self,
                first_row=self.first_row + rows,
                rows=self.rows - rows,
                shares=others,
                global_rows=self.global_rows - whole,
            ),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignedEnd(LastItem):
    """The end of a pass of all teachers.

    Args:
        positions: Where each teacher's next pass begins. Where a pass was truncated and its end not
            reached, the position behind the rows that were used.
    """

    positions: tuple[Position, ...]


class _Queue:
    """What came of one teacher and was not used yet."""

    def __init__(self, position: Position) -> None:
        self.chunks: deque[Chunk] = deque()
        self.used = 0
        self.end: PassEnd | None = None
        self.position = position

    @property
    def rows(self) -> int:
        """The unused rows of the first chunk."""
        return self.chunks[0].rows - self.used if self.chunks else 0

    def take(self, rows: int) -> Share:
        """The next rows of the first chunk."""
        chunk = self.chunks[0]
        share = Share(chunk=chunk, start=self.used, rows=rows)
        self.used += rows
        self.position = share.resume.after(rows)
        if self.used == chunk.rows:
            self.chunks.popleft()
            self.used = 0
        return share


class Align:
    """Takes the same rows of all teachers.

    Guarantee: row i of a batch is the same sample of every teacher, by its place in the pass. If
    teachers differ in length, LengthMismatch is raised before the batch in which they differ; with
    `truncate` the pass ends at the shortest.

    Args:
        names: The teachers' names, for messages.
        batch_size: Rows in a batch.
        positions: Where reading begins, one per teacher.
        first_row: The number of the first row in the pass.
        truncate: Whether the pass ends at the shortest teacher.
        drop_last: Whether a last batch that is shorter is left out.
    """

    def __init__(
        self,
        names: Sequence[str],
        batch_size: int,
        positions: Sequence[Position],
        *,
        first_row: int = 0,
        truncate: bool = False,
        drop_last: bool = False,
    ) -> None:
        self._names = list(names)
        self._size = batch_size
        self._queues = [_Queue(position) for position in positions]
        self._truncate = truncate
        self._drop_last = drop_last
        self._row = first_row

    def push(self, teacher: int, item: Chunk | PassEnd) -> None:
        """Take a teacher's next chunk, or the end of its pass."""
        if isinstance(item, PassEnd):
            self._queues[teacher].end = item
        elif item.rows:
            self._queues[teacher].chunks.append(item)

    def starving(self) -> list[int]:
        """The teachers whose next batch has not come yet."""
        return [
            index
            for index, queue in enumerate(self._queues)
            if queue.rows < self._size and queue.end is None
        ]

    def pop(self) -> Aligned | AlignedEnd:
        """Return the next batches, or the end of the pass. Call it only when no teacher starves.

        Raises:
            LengthMismatch: The teachers differ in length.
        """
        ready = [queue.rows for queue in self._queues]
        rows = min(ready) - min(ready) % self._size
        if not rows:
            # The last batch of at least one of them.
            ready = [min(count, self._size) for count in ready]
            rows = min(ready)
            if len(set(ready)) > 1 and not self._truncate:
                raise self.mismatch()
            if self._drop_last:
                rows = 0
        if not rows:
            return self._end()
        aligned = Aligned(
            first_row=self._row,
            rows=rows,
            shares=tuple(queue.take(rows) for queue in self._queues),
            global_rows=rows,
        )
        self._row += rows
        return aligned

    def _end(self) -> AlignedEnd:
        return AlignedEnd(
            positions=tuple(
                queue.end.next_pass if queue.end is not None else queue.position
                for queue in self._queues
            )
        )

    def has_ended(self, teacher: int) -> bool:
        """Whether the end of a teacher's pass came."""
        return self._queues[teacher].end is not None

    def mismatch(self) -> LengthMismatch:
        """The error for teachers of different length, as far as their lengths are known."""
        lengths = ", ".join(
            f"{name} {self._length(index)}" for index, name in enumerate(self._names)
        )
        return LengthMismatch(
            f"the teachers differ in length: {lengths}; ask for on_length_mismatch='truncate' to "
            "end at the shortest"
        )

    def _length(self, index: int) -> str:
        queue = self._queues[index]
        if queue.end is not None:
            return f"has {queue.end.end.rows} rows"
        return f"has at least {self._row + queue.rows} rows"
