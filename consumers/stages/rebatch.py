"""Records of R rows -> chunks: whole batches of the student's size, one behind the other in one piece of memory.

This is where rows are copied, once: into the memory that the user's tensors are views of. Records that are still in their file are not
copied at all but read straight to their place, later, by `Chunk.load`. Pure but for that memory: no threads or clocks, and no I/O before
`load`. Knows the position behind each batch, so that reading can go on there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from tutelage.consumers.sources.base import ConsumedRecord, Position
from tutelage.consumers.stages.batch_limit import too_large
from tutelage.consumers.stages.filling import Filling, cut
from tutelage.consumers.stages.order import PassEnd
from tutelage.schemas.container_reader import StoredRecord
from tutelage.schemas.errors import BatchTooLarge, CorruptData
from tutelage.schemas.limits import DEFAULT_LIMITS
from tutelage.schemas.record import Array, Description, Ragged, Record
from tutelage.schemas.topic import BEGINNING

# A chunk is about this large: enough that handing it on costs nothing per byte, little enough that a few stay in the processor's cache.
CHUNK_BYTES = 4 << 20
_MAX_BATCHES = 1024
# What a step of a trail takes, and a piece of a ragged key: with tiny records that is nearly all there is.
_STEP_BYTES = 512
# Memory for a batch beyond this is taken as its rows come: there may be far fewer than were asked for.
_GROWS_BEYOND_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    """Rows of one record in a chunk: they end at row `stop`, and the record's own first row would be at `first`."""

    first: int
    stop: int
    uses_up: bool
    pass_index: int
    sequence: int
    partition: int
    offset: int
    next_offset: int
    #: Bytes that the rows keep alive outside the chunk's own memory.
    held: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Trail:
    """Where a chunk's rows lay: the position before its first row, and the records it is made of."""

    start: Position
    steps: tuple[_Step, ...] = field(repr=False)

    def after(self, rows: int) -> Position:
        """Where reading would go on behind the chunk's first `rows` rows; in this pass until its end, which is read again then."""
        if not rows:
            return self.start
        offsets = list(self.start.offsets)
        for step in self.steps:
            used_up = step.uses_up and step.stop <= rows
            offsets[step.partition] = step.next_offset if used_up else step.offset
            at = Position(
                pass_index=step.pass_index,
                sequence=step.sequence + used_up,
                row=0 if used_up else min(rows, step.stop) - step.first,
                offsets=tuple(offsets),
            )
            if step.stop >= rows:
                break
        return at


@dataclass(kw_only=True, slots=True, eq=False)
class Chunk:
    """So many rows of one teacher: whole batches, but for the last chunk of a pass.

    dense   key -> [rows, *inner], in the wire dtype
    ragged  key -> (row where it begins, rows of that record), in order
    loads   what must still be read into `dense`, each with its first row: call `load` before the rows are used

    `nbytes` is what its rows have, `memory_bytes` what it takes in memory with all that it keeps alive.
    """

    rows: int
    trail: Trail
    dense: Mapping[str, Array] = field(repr=False)
    ragged: Mapping[str, list[tuple[int, Ragged]]] = field(repr=False)
    loads: list[tuple[int, Callable[[], None]]] = field(repr=False)
    nbytes: int = 0
    memory_bytes: int = 0

    def load(self) -> None:
        """Read what is still to be read. What fails raises, with the rows before it whole; then `whole_rows` says how many."""
        while self.loads:
            self.loads[0][1]()
            del self.loads[0]

    @property
    def whole_rows(self) -> int:
        """The rows that are there."""
        return self.loads[0][0] if self.loads else self.rows

    def ragged_rows(self, key: str, start: int, stop: int) -> list[Ragged]:
        """The rows `start` to `stop` of a ragged key, as pieces."""
        return [rows for _, rows in cut(self.ragged[key], start, stop)]


class Rebatch:
    """Cuts one stream into batches, and gives them in chunks.

    Guarantee: batch b holds rows b*size to (b+1)*size of the pass, whatever R was; only the last is shorter. A batch that would take
    more than `batch_bytes` is BatchTooLarge.
    """

    def __init__(
        self,
        batch_size: int,
        *,
        description: Description,
        partitions: int,
        rows_per_record: int,
        position: Position,
        chunk_bytes: int = CHUNK_BYTES,
        batch_bytes: int = DEFAULT_LIMITS.batch_bytes,
    ) -> None:
        self._size = batch_size
        self._chunk_bytes = chunk_bytes
        self._limit = batch_bytes
        self._rows_per_record = rows_per_record
        self._position = Position(
            pass_index=position.pass_index,
            sequence=position.sequence,
            row=position.row,
            offsets=position.offsets or (BEGINNING,) * partitions,
        )
        self._skip = position.row
        self._rows_seen = 0
        self._first_sequence = position.sequence
        self._columns = [Filling(spec) for spec in description.specs]
        self._row_bytes = sum(column.row_bytes for column in self._columns)
        self._ragged_keys = sum(column.ragged for column in self._columns)
        self._held_bytes = 0
        self._batches = 0
        self._capacity = 0
        self._grows = False
        self._filled = 0
        self._given = 0
        self._steps: list[_Step] = []
        self._loads: list[tuple[int, Callable[[], None]]] = []
        self._ready: deque[Chunk] = deque()
        self.end: PassEnd | None = None

    def push(self, item: ConsumedRecord | PassEnd) -> None:
        """Take the next record, or the end of the pass. CorruptData if the end counts other rows than came."""
        if isinstance(item, PassEnd):
            self._refuse_other_count(item)
            self.flush(ended=True)
            self.end = item
            return
        rows = item.record.head.rows
        self._rows_seen += rows
        start, self._skip = self._skip, 0
        if not self._capacity:
            self._begin(item)
        record = item.record
        if isinstance(record, StoredRecord) and (start or self._grows):
            # Of a record that is read straight to its place all rows are wanted, and their place must stay.
            record = record.load()
        targets: list[list[memoryview]] = [[] for _ in self._columns]
        if isinstance(record, StoredRecord):
            self._loads.append((self._filled, partial(record.read_into, targets)))
        while start < rows:
            if not self._capacity:
                self._begin(item)
            if self._filled == self._capacity:
                self._grow()
            stop = min(rows, start + self._capacity - self._filled)
            for column, places in zip(self._columns, targets, strict=True):
                if isinstance(record, StoredRecord):
                    places.append(column.place(self._filled, self._filled + stop - start))
                else:
                    column.put(record.columns[column.key], start, stop, self._filled)
            first, held = self._filled - start, self._held_by(record, stop - start)
            self._filled += stop - start
            self._held_bytes += held
            self._steps.append(
                _Step(
                    first=first,
                    stop=self._filled,
                    uses_up=stop == rows,
                    pass_index=record.head.pass_index,
                    sequence=record.head.sequence,
                    partition=item.partition,
                    offset=item.offset,
                    next_offset=item.next_offset,
                    held=held,
                )
            )
            start = stop
            if self._filled == self._batches * self._size or self._held_bytes > self._chunk_bytes:
                # How long ragged rows are is not known when a chunk is begun.
                self.flush()
            self._refuse_too_large()

    def pop(self) -> Chunk | None:
        """The next chunk that is full or was flushed."""
        return self._ready.popleft() if self._ready else None

    @property
    def whole_batches(self) -> bool:
        """Whether `flush` would give something."""
        return self._filled - self._given >= self._size

    def flush(self, *, ended: bool = False) -> None:
        """Give the batches that are whole (and, where the pass has ended, its last) without waiting for the chunk to fill."""
        stop = self._filled if ended else self._filled - self._filled % self._size
        start = self._given
        if stop > start:
            trail = Trail(
                start=self._position,
                steps=tuple(
                    replace(
                        step,
                        first=step.first - start,
                        stop=min(step.stop, stop) - start,
                        uses_up=step.uses_up and step.stop <= stop,
                    )
                    for step in self._steps
                    if step.first < stop
                ),
            )
            self._ready.append(
                Chunk(
                    rows=stop - start,
                    trail=trail,
                    dense={
                        column.key: column.dense(start, stop)
                        for column in self._columns
                        if not column.ragged
                    },
                    ragged={
                        column.key: column.pieces(start, stop)
                        for column in self._columns
                        if column.ragged
                    },
                    loads=[(row - start, load) for row, load in self._loads if row < stop],
                    nbytes=sum(column.nbytes_of(start, stop) for column in self._columns),
                    memory_bytes=(stop - start) * self._row_bytes
                    + sum(step.held + _STEP_BYTES for step in trail.steps)
                    + _STEP_BYTES * len(self._columns),
                )
            )
            self._position = trail.after(stop - start)
            self._steps = _left_of(self._steps, start, stop)
            # What a load fills may reach into the next chunk, which is used after this one.
            self._loads = [load for load in self._loads if load[0] >= stop]
            self._given = stop
            if self._ragged_keys:
                self._held_bytes = sum(step.held for step in self._steps)
                for column in self._columns:
                    column.forget(stop)
        if self._filled == self._given == self._batches * self._size:
            self._capacity = 0

    def _begin(self, item: ConsumedRecord) -> None:
        """Take memory for a new chunk, as many batches as make one by this record's size."""
        row_bytes = max(1, item.record.nbytes // item.record.head.rows)
        batch_bytes = row_bytes * self._size
        self._batches = max(1, min(_MAX_BATCHES, self._chunk_bytes // batch_bytes))
        self._capacity = self._batches * self._size
        self._grows = batch_bytes > min(_GROWS_BEYOND_BYTES, self._limit)
        self._filled = self._given = 0
        if self._grows:
            wanted = max(item.record.head.rows, _GROWS_BEYOND_BYTES // row_bytes)
            self._capacity = min(self._size, wanted, self._most_rows)
            if not self._capacity:
                raise self._too_large(1)
        for column in self._columns:
            column.begin(self._capacity)

    def _grow(self) -> None:
        """Twice the memory, for a batch too large to take it all at once."""
        self._capacity = min(self._batches * self._size, 2 * self._capacity, self._most_rows)
        if self._capacity <= self._filled:
            raise self._too_large(self._filled + 1)
        for column in self._columns:
            column.grow(self._capacity, self._filled)

    @property
    def _most_rows(self) -> int:
        """The rows whose dense keys are within the limit."""
        return self._limit // self._row_bytes if self._row_bytes else self._size

    def _held_by(self, record: Record | StoredRecord, rows: int) -> int:
        """What so many rows of a record keep alive: where a key is ragged their share of all of it, and the lengths that were decoded."""
        if not self._ragged_keys:
            return 0
        return record.nbytes * rows // record.head.rows + self._ragged_keys * (
            _STEP_BYTES + 8 * rows
        )

    def _refuse_too_large(self) -> None:
        """BatchTooLarge if the rows that are not given yet, which are less than a batch, take more than a batch may."""
        if self._held_bytes > self._limit - (self._filled - self._given) * self._row_bytes:
            raise self._too_large(self._filled - self._given)

    def _too_large(self, rows: int) -> BatchTooLarge:
        start = self._given
        sizes = [
            column.row_bytes * rows or column.nbytes_of(start, self._filled)
            for column in self._columns
        ]
        most = max(range(len(sizes)), key=sizes.__getitem__)
        return too_large(
            self._columns[most].key,
            rows=rows,
            longest=self._columns[most].longest(start, self._filled),
            nbytes=sizes[most],
            total=rows * self._row_bytes + self._held_bytes,
            limit=self._limit,
            # The rows that are still to come are taken to be alike.
            enough=(rows * self._row_bytes + self._held_bytes) * self._size // rows,
        )

    def _refuse_other_count(self, item: PassEnd) -> None:
        """An end must count the rows that came; behind the last record, which may be short, only the records can be compared."""
        size, ended = self._rows_per_record, item.end.rows
        rows = self._first_sequence * size + self._rows_seen
        alike = rows == ended if self._rows_seen else -(-ended // size) == self._first_sequence
        if not alike:
            raise CorruptData(
                f"pass {item.next_pass.pass_index - 1} ends with {ended} rows, but {rows} came"
            )


def _left_of(steps: list[_Step], start: int, stop: int) -> list[_Step]:
    """What is left of steps, which begin at row `start`, behind row `stop`; of one that it cuts, the share of what its rows hold."""
    left: list[_Step] = []
    for step in steps:
        if step.stop > stop:
            if step.held and start < stop:
                step = replace(step, held=step.held * (step.stop - stop) // (step.stop - start))
            left.append(step)
        start = step.stop
    return left
