"""The stages of one pass, each polled by the one behind it, from the sources to merged batches.

    Prefetch(RebatchStage(OrderStage(source)))      one for each teacher
    MergeStage(AlignStage([...]))                   in a Prefetch too where values are calculated

Nothing is handed back: the position behind each row travels with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tutelage.consumers.deal import Deal
from tutelage.consumers.position import Position
from tutelage.consumers.sources.base import Source, StreamInfo
from tutelage.consumers.stages.align import Align, AlignedEnd
from tutelage.consumers.stages.align_ranks import RankAlign
from tutelage.consumers.stages.align_stage import AlignStage
from tutelage.consumers.stages.chunk import Chunk, chunk_of_nothing
from tutelage.consumers.stages.merge import Merge
from tutelage.consumers.stages.merge_stage import Merged, MergeStage
from tutelage.consumers.stages.order import PassEnd
from tutelage.consumers.stages.order_stage import OrderStage
from tutelage.consumers.stages.prefetch import Prefetch
from tutelage.consumers.stages.rebatch import CHUNK_BYTES, Rebatch, RowsOf
from tutelage.consumers.stages.rebatch_stage import RebatchStage
from tutelage.consumers.stages.stage import Stage
from tutelage.consumers.stats import StreamStats, StudentStats
from tutelage.schemas.limits import DEFAULT_LIMITS
from tutelage.schemas.record import RecordHead


@dataclass(frozen=True, kw_only=True, slots=True)
class PassOptions:
    """How the batches of a pass are made.

    Args:
        batch_size: Rows in a batch of this rank.
        deal: Which rows are this rank's; None for all.
        drop_last: Whether a last batch that is shorter is left out.
        whole_batches: Whether no batch of the pass is shorter, so that a rank need not wait for its
            next rows to know it.
        truncate: Whether the pass ends at the shortest teacher.
        prefetch: Merged batches to keep ready.
        budget_bytes: Bytes to read ahead, per teacher.
        chunk_bytes: About how much memory batches share; 0 gives each batch memory of its own.
        batch_bytes: How much memory a batch may take.
    """

    batch_size: int
    deal: Deal | None
    drop_last: bool
    whole_batches: bool
    truncate: bool
    prefetch: int
    budget_bytes: int
    chunk_bytes: int = CHUNK_BYTES
    batch_bytes: int = DEFAULT_LIMITS.batch_bytes


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
        for source, found, counts in zip(sources, opened, stream_stats, strict=True):
            counts.needed, counts.read_amplification = _share(source, found, options.deal)
        self._orders = [
            OrderStage(
                source,
                found,
                at,
                needed=counts.needed,
                budget_bytes=options.budget_bytes,
                stats=counts,
            )
            for source, found, at, counts in zip(
                sources, opened, positions, stream_stats, strict=True
            )
        ]
        self._align = _align(opened, positions, options, first_row)
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
                size_of=share_of_budget(options),
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


def _share(
    source: Source, opened: StreamInfo, deal: Deal | None
) -> tuple[frozenset[int] | None, float]:
    """The partitions with rows of this rank (None for all), and the read amplification."""
    if deal is None:
        return None, 1.0
    size, partitions = opened.stream.rows_per_record, opened.partitions
    needed = deal.partitions(size, partitions)
    amplification = deal.amplification(size, partitions, skips=source.skips_records)
    return (needed if len(needed) < partitions else None), amplification


def _align(
    opened: Sequence[StreamInfo],
    positions: Sequence[Position],
    options: PassOptions,
    first_row: int,
) -> Align:
    names = [found.stream.teacher for found in opened]
    if options.deal is None:
        return Align(
            names,
            options.batch_size,
            positions,
            first_row=first_row,
            truncate=options.truncate,
            drop_last=options.drop_last,
        )
    return RankAlign(
        names,
        options.deal,
        positions,
        [
            chunk_of_nothing(found.description, position)
            for found, position in zip(opened, positions, strict=True)
        ],
        first_row=first_row,
        truncate=options.truncate,
        drop_last=options.drop_last,
        whole_batches=options.whole_batches,
    )


def _rows_of(opened: StreamInfo, deal: Deal | None) -> RowsOf | None:
    """A record -> the ranges of its rows that are this rank's; None for all."""
    if deal is None:
        return None
    size = opened.stream.rows_per_record

    def rows_of(head: RecordHead) -> list[tuple[int, int]]:
        first = head.sequence * size
        parts = deal.parts(first, first + head.rows)
        return [(start - first, stop - first) for start, stop in parts]

    return rows_of


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
        rows_of=_rows_of(opened, options.deal),
    )
    source = records.source
    return Prefetch(
        RebatchStage(
            records,
            rebatch,
            stats,
            None if options.deal is None else chunk_of_nothing(opened.description, position),
        ),
        budget=min(options.budget_bytes, source.ahead_bytes or options.budget_bytes),
        size_of=lambda item: item.memory_bytes if isinstance(item, Chunk) else 0,
        read=lambda item: item.load if isinstance(item, Chunk) and item.reads else None,
        name=f"tutelage-fetch-{source.name}",
    )


def share_of_budget(options: PassOptions) -> Callable[[Merged | AlignedEnd], int]:
    """How many of the batches to keep ready an item counts for: by number, and by memory.

    All of them together may take the memory of one batch at its limit.
    """

    def share(item: Merged | AlignedEnd) -> int:
        if isinstance(item, AlignedEnd):
            return 1
        by_memory = -(-options.prefetch * item.nbytes // options.batch_bytes)
        return max(len(item.batches), by_memory)

    return share
