"""Records of R rows -> chunks: whole batches of the student's size, one behind the other in memory.

Rows are copied here, once, into the memory that the user's tensors are views of. Records that are
still in a file are not copied: `Chunk.load` reads them straight to their place later. No I/O,
threads or clocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from tutelage.consumers.position import Position, RecordSpan, ResumeIndex
from tutelage.consumers.sources.base import ConsumedRecord
from tutelage.consumers.stages.batch_limit import batch_too_large
from tutelage.consumers.stages.chunk import Chunk
from tutelage.consumers.stages.column_buffer import ChunkBuffers
from tutelage.consumers.stages.order import PassEnd
from tutelage.schemas.errors import BatchTooLarge
from tutelage.schemas.limits import DEFAULT_LIMITS
from tutelage.schemas.record import Description, RecordHead
from tutelage.schemas.topic import BEGINNING

#: A record -> ranges of its rows, in order.
RowsOf = Callable[[RecordHead], list[tuple[int, int]]]
# About the size of a chunk: large enough that handing it on costs nothing per byte, small enough
# that a few stay in the processor's cache.
CHUNK_BYTES = 4 << 20
_MAX_BATCHES = 1024
# Memory for one span of rows, and for one piece of a ragged key. With tiny records it is nearly all
# the memory that there is.
_SPAN_BYTES = 512
# Memory beyond this is taken as a batch's rows come: there may be far fewer than were asked for.
_GROWS_BEYOND_BYTES = 64 << 20


class Rebatch:
    """Cuts one stream into batches, and gives them in chunks.

    Guarantee: batch b holds the rows b*size to (b+1)*size of the pass, whatever R is; only the last
    batch is shorter. A batch of more than `batch_bytes` raises BatchTooLarge.

    Args:
        batch_size: Rows in a batch.
        description: Key -> dtype and row shape of the stream.
        partitions: The stream's partitions.
        position: Where reading begins.
        chunk_bytes: About how much memory batches share; 0 gives each batch memory of its own.
        batch_bytes: How much memory a batch may take.
        rows_of: A record -> the ranges of its rows that are used, in order; all if not given.
    """

    def __init__(
        self,
        batch_size: int,
        *,
        description: Description,
        partitions: int,
        position: Position,
        chunk_bytes: int = CHUNK_BYTES,
        batch_bytes: int = DEFAULT_LIMITS.batch_bytes,
        rows_of: RowsOf | None = None,
    ) -> None:
        self._size = batch_size
        self._chunk_bytes = chunk_bytes
        self._limit = batch_bytes
        self._position = replace(position, offsets=position.offsets or (BEGINNING,) * partitions)
        self._rows_of = _rows_behind(position, rows_of or (lambda head: [(0, head.rows)]))
        self._buffers = ChunkBuffers(description)
        # The chunk that is being filled: its batches, the rows it has memory for, the rows it has,
        # and the rows that were given.
        self._batches = self._capacity = self._filled = self._given = 0
        self._grows = False
        self._spans: list[RecordSpan] = []
        self._held_bytes = 0
        self._reads: list[tuple[int, Callable[[], None]]] = []
        self._ready: deque[Chunk] = deque()

    def push(self, item: ConsumedRecord | PassEnd) -> None:
        """Take the next record, or the end of the pass.

        Raises:
            BatchTooLarge: A batch would take more memory than one may.
            CorruptData: A key is dense in the record and ragged in its description, or the other
                way round.
        """
        if isinstance(item, PassEnd):
            self.flush(ended=True)
            return
        head = item.record.head
        parts = self._rows_of(head)
        if not parts:
            return
        if not self._capacity:
            self._begin(item)
        stored, targets = item.stored, None
        if stored is not None and (parts != [(0, head.rows)] or self._grows):
            # Rows read from a file must be all of their record, and their place must stay.
            item = item.loaded()
        elif stored is not None:
            targets = [list[memoryview]() for _ in self._buffers.columns]
            self._reads.append((self._filled, partial(stored.read_into, targets)))
        for start, end in parts:
            self._take(item, start, end, targets)

    def _take(
        self, item: ConsumedRecord, start: int, end: int, targets: list[list[memoryview]] | None
    ) -> None:
        """Take the rows `start` to `end` of a record, into as many chunks as it takes."""
        while start < end:
            if not self._capacity:
                self._begin(item)
            if self._filled == self._capacity:
                self._grow()
            stop = min(end, start + self._capacity - self._filled)
            self._fill(item, start, stop, targets)
            start = stop
            if self._filled == self._batches * self._size or self._held_bytes > self._chunk_bytes:
                # How long ragged rows are is not known when a chunk is begun.
                self.flush()
            self._check_size()

    def _fill(
        self, item: ConsumedRecord, start: int, stop: int, targets: list[list[memoryview]] | None
    ) -> None:
        """Copy the rows `start` to `stop` of a record, or add their place to `targets`."""
        first, filled = self._filled - start, self._filled + stop - start
        if targets is not None:
            for column, places in zip(self._buffers.columns, targets, strict=True):
                places.append(column.writable(self._filled, filled))
        else:
            record = item.record.load()
            for column in self._buffers.columns:
                column.put(record.columns[column.key], start, stop, self._filled)
        held = self._held_by(item, stop - start)
        self._held_bytes += held
        self._filled = filled
        head = item.record.head
        self._spans.append(
            RecordSpan(
                first=first,
                stop=filled,
                uses_up=stop == head.rows,
                pass_index=head.pass_index,
                sequence=head.sequence,
                partition=item.partition,
                offset=item.offset,
                next_offset=item.next_offset,
                held=held,
            )
        )

    def pop(self) -> Chunk | None:
        """Return the next chunk that is full or was flushed; None if there is none."""
        return self._ready.popleft() if self._ready else None

    @property
    def pending_rows(self) -> int:
        """The rows that came and are in no chunk yet."""
        return self._filled - self._given

    @property
    def has_whole_batches(self) -> bool:
        """Whether `flush` would give something."""
        return self.pending_rows >= self._size

    def flush(self, *, ended: bool = False) -> None:
        """Give the whole batches now instead of when the chunk is full.

        Args:
            ended: Whether the pass has ended: its last batch, which may be shorter, is given too.
        """
        stop = self._filled if ended else self._filled - self._filled % self._size
        start = self._given
        if stop > start:
            self._ready.append(self._cut(start, stop))
            self._position = self._ready[-1].resume.after(stop - start)
            self._spans = _spans_behind(self._spans, start, stop)
            # A read may fill rows of the next chunk too, which is used after this one.
            self._reads = [read for read in self._reads if read[0] >= stop]
            self._given = stop
            if self._buffers.ragged_keys:
                self._held_bytes = sum(span.held for span in self._spans)
                self._buffers.release(stop)
        if self._filled == self._given == self._batches * self._size:
            self._capacity = 0

    def _cut(self, start: int, stop: int) -> Chunk:
        spans = tuple(span.within(start, stop) for span in self._spans if span.first < stop)
        return Chunk(
            rows=stop - start,
            resume=ResumeIndex(start=self._position, spans=spans),
            dense={
                column.key: column.dense(start, stop)
                for column in self._buffers.columns
                if not column.ragged
            },
            ragged={
                column.key: column.pieces(start, stop)
                for column in self._buffers.columns
                if column.ragged
            },
            reads=[(row - start, read) for row, read in self._reads if row < stop],
            nbytes=sum(column.nbytes(start, stop) for column in self._buffers.columns),
            memory_bytes=(stop - start) * self._buffers.row_bytes
            + sum(span.held + _SPAN_BYTES for span in spans)
            + _SPAN_BYTES * len(self._buffers.columns),
        )

    def _begin(self, item: ConsumedRecord) -> None:
        """Take memory for a new chunk, sized by the bytes of a row of this record."""
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
        self._buffers.allocate(self._capacity)

    def _grow(self) -> None:
        """Double the memory of a batch that is too large to take it all at once."""
        self._capacity = min(self._batches * self._size, 2 * self._capacity, self._most_rows)
        if self._capacity <= self._filled:
            raise self._too_large(self._filled + 1)
        self._buffers.grow(self._capacity, self._filled)

    @property
    def _most_rows(self) -> int:
        """The most rows whose dense keys are within the limit."""
        return self._limit // self._buffers.row_bytes if self._buffers.row_bytes else self._size

    def _held_by(self, item: ConsumedRecord, rows: int) -> int:
        """Memory that rows keep alive: with ragged keys a share of their record, and lengths."""
        if not self._buffers.ragged_keys:
            return 0
        share = item.record.nbytes * rows // item.record.head.rows
        return share + self._buffers.ragged_keys * (_SPAN_BYTES + 8 * rows)

    def _check_size(self) -> None:
        """Raise BatchTooLarge if the rows not given yet, less than a batch, exceed its limit."""
        if self._held_bytes > self._limit - (self._filled - self._given) * self._buffers.row_bytes:
            raise self._too_large(self._filled - self._given)

    def _too_large(self, rows: int) -> BatchTooLarge:
        start = self._given
        sizes = [
            column.row_bytes * rows or column.nbytes(start, self._filled)
            for column in self._buffers.columns
        ]
        most = max(range(len(sizes)), key=sizes.__getitem__)
        total = rows * self._buffers.row_bytes + self._held_bytes
        return batch_too_large(
            self._buffers.columns[most].key,
            rows=rows,
            longest=self._buffers.columns[most].longest(start, self._filled),
            nbytes=sizes[most],
            total=total,
            limit=self._limit,
            # The rows still to come are assumed to be alike.
            enough=total * self._size // rows,
        )


def _rows_behind(position: Position, rows_of: RowsOf) -> RowsOf:
    """The same rows without those that lie before a position."""
    if not position.row:
        return rows_of
    first = (position.pass_index, position.sequence)

    used = position.row

    def rows_behind(head: RecordHead) -> list[tuple[int, int]]:
        if (head.pass_index, head.sequence) != first:
            return rows_of(head)
        return [(max(start, used), stop) for start, stop in rows_of(head) if stop > used]

    return rows_behind


def _spans_behind(spans: list[RecordSpan], start: int, stop: int) -> list[RecordSpan]:
    """What is left of spans, which begin at row `start`, behind row `stop`.

    A span that is cut keeps the share of what its rows hold.
    """
    left: list[RecordSpan] = []
    for span in spans:
        if span.stop > stop:
            if span.held and start < stop:
                held = span.held * (span.stop - stop) // (span.stop - start)
                span = replace(span, held=held)
            left.append(span)
        start = span.stop
    return left
