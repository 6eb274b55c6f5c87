"""The stages of one pass, each polled by the one behind it, from the sources to merged batches.

    Prefetch(RebatchStage(OrderStage(source)))      one for each teacher
    MergeStage(AlignStage([...]))                   in a Prefetch too where values are calculated

Nothing is handed back: the position behind each row travels with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tutelage.consumers.position import Position, ResumeIndex
from tutelage.consumers.sources.base import Source, StreamInfo
from tutelage.consumers.stages.align import Align, Aligned, AlignedEnd
from tutelage.consumers.stages.batches import Batches
from tutelage.consumers.stages.chunk import Chunk
from tutelage.consumers.stages.merge import Merge
from tutelage.consumers.stages.order import PassEnd
from tutelage.consumers.stages.order_stage import OrderStage
from tutelage.consumers.stages.prefetch import Prefetch
from tutelage.consumers.stages.rebatch import CHUNK_BYTES, Rebatch
from tutelage.consumers.stages.stage import Stage
from tutelage.consumers.stats import StreamStats, StudentStats
from tutelage.schemas.errors import LengthMismatch
from tutelage.schemas.limits import DEFAULT_LIMITS

# How long to read on for the teachers' lengths, so that the error for different lengths names them.
_LENGTHS_WITHIN_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PassOptions:
    """How the batches of a pass are made.

    Args:
        batch_size: Rows in a batch.
        drop_last: Whether a last batch that is shorter is left out.
        truncate: Whether the pass ends at the shortest teacher.
        prefetch: Merged batches to keep ready.
        budget_bytes: Bytes to read ahead, per teacher.
        chunk_bytes: About how much memory batches share; 0 gives each batch memory of its own.
        batch_bytes: How much memory a batch may take.
    """

    batch_size: int
    drop_last: bool
    truncate: bool
    prefetch: int
    budget_bytes: int
    chunk_bytes: int = CHUNK_BYTES
    batch_bytes: int = DEFAULT_LIMITS.batch_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """Merged batches.

    Args:
        batches: The batches.
        resume: For each teacher, the position behind each of their rows.
        nbytes: Bytes of all of them.
    """

    batches: Batches = field(repr=False)
    resume: tuple[ResumeIndex, ...] = field(repr=False)
    nbytes: int


class RebatchStage:
    """Records in order -> chunks of whole batches, and the end of the pass."""

    def __init__(self, records: OrderStage, rebatch: Rebatch, stats: StreamStats) -> None:
        self._records = records
        self._rebatch = rebatch
        self._stats = stats
        self._end: PassEnd | None = None
        self._failed: BaseException | None = None

    def poll(self, *, eager: bool = True) -> Chunk | PassEnd | None:
        """Return the next chunk, which is full unless somebody waits for it or nothing more comes.

        Whole batches before an error are given before the error is raised.
        """
        rebatch = self._rebatch
        if (chunk := rebatch.pop()) is not None:
            return chunk
        if self._failed is not None:
            raise self._failed
        if self._end is not None:
            return self._end
        try:
            item = self._records.poll(eager=eager)
            if item is not None:
                began = time.perf_counter()
                rebatch.push(item)
                self._stats.decode_s += time.perf_counter() - began
        except BaseException as error:  # whatever it is, it comes behind what is whole
            self._failed = error
            item = None
        if isinstance(item, PassEnd):
            self._end = item
        elif (eager or item is None) and rebatch.has_whole_batches:
            rebatch.flush()
        return rebatch.pop()

    def close(self) -> None:
        """Stop reading."""
        self._records.close()


class AlignStage:
    """The chunks of all teachers -> the same rows of each."""

    def __init__(
        self,
        streams: Sequence[Prefetch[Chunk | PassEnd]],
        align: Align,
        stats: Sequence[StreamStats],
    ) -> None:
        self._streams = streams
        self._align = align
        self._stats = stats

    def poll(self, *, eager: bool = True) -> Aligned | AlignedEnd | None:
        """Return as many batches as all teachers have, or the end of the pass.

        Raises:
            LengthMismatch: The teachers differ in length; it names every length that is known soon.
        """
        while starving := self._align.starving():
            for teacher in starving:
                if not self._has_brought(teacher, starving):
                    return None
        try:
            return self._align.pop()
        except LengthMismatch:
            self._read_on_to_ends()
            raise self._align.mismatch() from None

    def _has_brought(self, teacher: int, starving: Sequence[int]) -> bool:
        """Take a teacher's next chunk, or its end, if it comes within a moment."""
        began, late = time.perf_counter(), [each for each in starving if self._is_late(each)]
        item = self._streams[teacher].poll()
        seconds = time.perf_counter() - began
        # A teacher that is late beside the one that is polled is waited for just as long.
        for each in {teacher, *(each for each in late if self._is_late(each))}:
            self._stats[each].wait_s += seconds
        if item is None:
            return False
        if isinstance(item, Chunk):
            self._stats[teacher].load_s += item.load_s
        self._align.push(teacher, item)
        return True

    def _is_late(self, teacher: int) -> bool:
        return self._streams[teacher].is_empty

    def _read_on_to_ends(self) -> None:
        deadline = time.monotonic() + _LENGTHS_WITHIN_S
        for teacher, stream in enumerate(self._streams):
            while not self._align.has_ended(teacher) and time.monotonic() < deadline:
                try:
                    item = stream.poll()
                except BaseException:  # the lengths are what matters now
                    break
                if isinstance(item, PassEnd):
                    self._align.push(teacher, item)

    def close(self) -> None:
        """End the streams."""
        for stream in self._streams:
            stream.stop()
        for stream in self._streams:
            stream.close()


class MergeStage:
    """The same rows of every teacher -> merged batches."""

    def __init__(
        self, aligned: AlignStage, merge: Merge, batch_size: int, stats: StudentStats
    ) -> None:
        self._aligned = aligned
        self._merge = merge
        self._size = batch_size
        self._stats = stats
        # Rows that would have taken too much memory together with those merged last.
        self._rest: Aligned | None = None

    def poll(self, *, eager: bool = True) -> Merged | AlignedEnd | None:
        """Return the next batches, as many as may be merged at once, or the end of the pass."""
        aligned = self._rest if self._rest is not None else self._aligned.poll()
        if not isinstance(aligned, Aligned):
            return aligned
        began = time.perf_counter()
        rows, nbytes = self._merge.measured(aligned, self._size)
        aligned, self._rest = aligned.split(rows)
        batches = self._merge.batches(aligned, self._size)
        self._stats.merge_s += time.perf_counter() - began
        resume = tuple(share.resume for share in aligned.shares)
        return Merged(batches=batches, resume=resume, nbytes=nbytes)

    def close(self) -> None:
        """End the streams."""
        self._aligned.close()


class Chain:
    """The stages of one pass. `poll` gives merged batches; `close` ends every thread.

    Args:
        sources: The sources, which are open.
        opened: What they found.
        positions: Where reading begins, one per source.
        merge: How keys are merged.
        options: How batches are made.
        first_row: The number of the first row in the pass.
        stats: Where to count what is merged.
        stream_stats: Where to count what comes of each teacher.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        opened: Sequence[StreamInfo],
        positions: Sequence[Position],
        merge: Merge,
        options: PassOptions,
        *,
        first_row: int,
        stats: StudentStats,
        stream_stats: Sequence[StreamStats],
    ) -> None:
        self._size = options.batch_size
        self._orders = [
            OrderStage(source, found, at, budget_bytes=options.budget_bytes, stats=counts)
            for source, found, at, counts in zip(
                sources, opened, positions, stream_stats, strict=True
            )
        ]
        self._align = Align(
            [found.stream.teacher for found in opened],
            options.batch_size,
            positions,
            first_row=first_row,
            truncate=options.truncate,
            drop_last=options.drop_last,
        )
        self._streams = [
            _prefetched(records, found, at, options, counts)
            for records, found, at, counts in zip(
                self._orders, opened, positions, stream_stats, strict=True
            )
        ]
        aligned = AlignStage(self._streams, self._align, stream_stats)
        self._last: Stage[Merged | AlignedEnd] = MergeStage(
            aligned, merge, options.batch_size, stats
        )
        self._merged: Prefetch[Merged | AlignedEnd] | None = None
        if not merge.passes_through:
            self._merged = Prefetch[Merged | AlignedEnd](
                self._last,
                budget=options.prefetch,
                size_of=_share_of_budget(options),
                name="tutelage-merge",
            )
            self._last = self._merged

    def poll(self) -> Merged | AlignedEnd | None:
        """Return the next batches, or the end of the pass; None if they are not ready in a moment.

        Raises:
            Closed: `close` was called.
            BaseException: What a stage raised.
        """
        return self._last.poll()

    @property
    def ready(self) -> int:
        """Batches that can be taken without waiting. Safe in any thread, as what follows is."""
        if self._merged is not None:
            return sum(
                len(item.batches) for item in self._merged.kept() if isinstance(item, Merged)
            )
        rows = (
            sum(item.rows for item in stream.kept() if isinstance(item, Chunk))
            for stream in self._streams
        )
        return min(rows) // self._size

    @property
    def queued_bytes(self) -> list[int]:
        """Per teacher: bytes of the rows that were read and are not merged yet."""
        return [
            stream.kept_bytes + records.order.pending_bytes
            for stream, records in zip(self._streams, self._orders, strict=True)
        ]

    @property
    def waiting_for(self) -> str:
        """The record that the next batch waits for, in words."""
        for teacher in self._align.starving():
            if self._streams[teacher].is_empty:
                partition, what = self._orders[teacher].order.waiting_for
                return f"{self._orders[teacher].source.name}, partition {partition}, {what}"
        return "the next batch to be merged"

    @property
    def dropped(self) -> list[dict[str, int]]:
        """Per teacher: the duplicates and zombies' records that were dropped in this pass."""
        return [
            {"duplicates": records.order.duplicates, "zombies": records.zombies}
            for records in self._orders
        ]

    def close(self) -> None:
        """End all threads and wait for them. May be called twice."""
        self._last.close()


def _prefetched(
    records: OrderStage,
    opened: StreamInfo,
    position: Position,
    options: PassOptions,
    stats: StreamStats,
) -> Prefetch[Chunk | PassEnd]:
    """One teacher's chunks, read ahead."""
    rebatch = Rebatch(
        options.batch_size,
        description=opened.description,
        partitions=opened.partitions,
        position=position,
        chunk_bytes=options.chunk_bytes,
        batch_bytes=options.batch_bytes,
    )
    source = records.source
    return Prefetch(
        RebatchStage(records, rebatch, stats),
        budget=min(options.budget_bytes, source.ahead_bytes or options.budget_bytes),
        size_of=lambda item: item.memory_bytes if isinstance(item, Chunk) else 0,
        read=lambda item: item.load if isinstance(item, Chunk) and item.reads else None,
        name=f"tutelage-fetch-{source.name}",
    )


def _share_of_budget(options: PassOptions) -> Callable[[Merged | AlignedEnd], int]:
    """How many of the batches to keep ready an item counts for: by number, and by memory.

    All of them together may take the memory of one batch at its limit.
    """

    def share(item: Merged | AlignedEnd) -> int:
        if isinstance(item, AlignedEnd):
            return 1
        by_memory = -(-options.prefetch * item.nbytes // options.batch_bytes)
        return max(len(item.batches), by_memory)

    return share
