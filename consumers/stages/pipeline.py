"""Sources -> merged batches, read ahead; all bounded, all ended by `close`.

One thread per teacher fetches, orders and cuts into chunks; where something is to be calculated, one more aligns and merges, else whoever
asks for batches does it. What is handed from thread to thread is many batches at once where many are there, and a single one where the
student waits for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tutelage.consumers.progress import Merged
from tutelage.consumers.sources.base import ConsumedRecord, Position, Source, StreamInfo
from tutelage.consumers.stages.align import Align, Aligned
from tutelage.consumers.stages.channel import Channel, Closed
from tutelage.consumers.stages.holding import Holding
from tutelage.consumers.stages.loader import Loader, PendingChunk
from tutelage.consumers.stages.merge import Merge
from tutelage.consumers.stages.order import Order, PassEnd, made_sure
from tutelage.consumers.stages.rebatch import CHUNK_BYTES, Rebatch
from tutelage.consumers.tally import StudentTally, TeacherTally
from tutelage.schemas.errors import LengthMismatch, TutelageError
from tutelage.schemas.limits import DEFAULT_LIMITS
from tutelage.transport.background import BackgroundThread

log = logging.getLogger(__name__)

_POLL_S = 0.25
_LENGTHS_WITHIN_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineOptions:
    """One pass's batches: their size, whether a short last one is dropped, and how much may be read ahead.

    `chunk_bytes` is the memory that batches may share, 0 for a piece of its own for each; `batch_bytes` is what a batch may take.
    """

    batch_size: int
    drop_last: bool
    truncate: bool
    prefetch: int
    budget_bytes: int
    chunk_bytes: int = CHUNK_BYTES
    batch_bytes: int = DEFAULT_LIMITS.batch_bytes


class _Teacher:
    """One teacher's thread and what it gives."""

    def __init__(
        self,
        source: Source,
        opened: StreamInfo,
        position: Position,
        options: PipelineOptions,
        tally: TeacherTally,
    ) -> None:
        self.source = source
        self.tally = tally
        self._dropped_before = (tally.duplicates, tally.zombies)
        self._stale_before = source.stale_records
        self.order = Order(opened.stream, opened.partitions, position)
        budget_bytes = options.budget_bytes
        self.channel: Channel[PendingChunk | PassEnd] = Channel(
            min(budget_bytes, source.ahead_bytes or budget_bytes)
        )
        self.awaited: PendingChunk | None = None
        self.failed: BaseException | None = None
        self._rebatch = Rebatch(
            options.batch_size,
            description=opened.description,
            partitions=opened.partitions,
            rows_per_record=opened.stream.rows_per_record,
            position=position,
            chunk_bytes=options.chunk_bytes,
            batch_bytes=options.batch_bytes,
        )
        self.loader = Loader()
        self._position = position
        self._holding = Holding(source, self.order, budget_bytes)
        self.thread = BackgroundThread(
            self._fetch, name=f"tutelage-fetch-{source.name}", ask_to_end=self.channel.close
        )

    @property
    def is_late(self) -> bool:
        """Whether nothing of it is there to be brought in."""
        return self.awaited is None and not len(self.channel)

    @property
    def zombies(self) -> int:
        """Records of this pass that a writer wrote that was thought dead: of this run, or of an older one."""
        return self.order.zombies + self.source.stale_records - self._stale_before

    @property
    def rows_ready(self) -> int:
        """Rows that are cut and wait to be taken."""
        return sum(
            item.chunk.rows for item, _ in self.channel.items() if isinstance(item, PendingChunk)
        )

    def _fetch(self) -> None:
        arrivals = self.source.read(self._position)
        try:
            for arrival in arrivals:
                if self.channel.closed:
                    return
                if arrival is None:
                    self._give(waiting=True)
                    continue
                began = time.perf_counter()
                self.order.push(made_sure(self.order, arrival))
                self._count(arrival, time.perf_counter() - began)
                while (item := self.order.pop()) is not None:
                    began = time.perf_counter()
                    self._rebatch.push(item)
                    self.tally.decode_s += time.perf_counter() - began
                    if isinstance(item, PassEnd):
                        self._give()
                        self.channel.put(item, 0)
                        return
                    self._give(waiting=not len(self.channel))
                self._holding.look()
        except Closed:
            pass
        except (
            BaseException
        ) as error:  # whatever it is, the reader must hear of it, behind what is whole
            try:
                self._give(waiting=True)
            except Closed:
                return
            self.channel.fail(
                self.source.explain(error) if isinstance(error, TutelageError) else error
            )
        finally:
            arrivals.close()

    def _count(self, arrival: ConsumedRecord, seconds: float) -> None:
        tally, record, partition = self.tally, arrival.record, arrival.partition
        tally.decode_s += seconds + arrival.decode_s
        tally.records[partition] += record.head.end is None
        tally.rows[partition] += record.head.rows
        tally.nbytes[partition] += record.nbytes
        duplicates, zombies = self._dropped_before
        tally.duplicates, tally.zombies = duplicates + self.order.duplicates, zombies + self.zombies

    def _give(self, *, waiting: bool = False) -> None:
        """Hand on the chunks that are full, and where somebody waits what there is of the next."""
        if waiting and self._rebatch.whole_batches:
            self._rebatch.flush()
        while (chunk := self._rebatch.pop()) is not None:
            loading = self.loader.loading(chunk)
            if not self.channel.put(loading, chunk.memory_bytes, wait=False):
                # Nobody is in a hurry: all that is found is loaded before it is waited for.
                self.loader.work()
                self.channel.put(loading, chunk.memory_bytes)
            # One is left for whoever waits at the other end.
            self.loader.work(leave=1)


class Pipeline:
    """One pass on its way. `get` gives batches in order; `close` ends every thread."""

    def __init__(
        self,
        sources: Sequence[Source],
        opened: Sequence[StreamInfo],
        positions: Sequence[Position],
        merge: Merge,
        options: PipelineOptions,
        *,
        first_row: int,
        tally: StudentTally,
        teacher_tallies: Sequence[TeacherTally],
    ) -> None:
        self._merge = merge
        self._options = options
        self._tally = tally
        self._teachers = [
            _Teacher(source, found, position, options, counted)
            for source, found, position, counted in zip(
                sources, opened, positions, teacher_tallies, strict=True
            )
        ]
        self._align = Align(
            [found.stream.teacher for found in opened],
            options.batch_size,
            positions,
            first_row=first_row,
            truncate=options.truncate,
        )
        self._out: Channel[Merged] = Channel(options.prefetch)
        self._rest: Aligned | None = None
        self._threads = [teacher.thread for teacher in self._teachers]
        if not merge.passes_through:
            self._threads.append(
                BackgroundThread(self._merge_all, name="tutelage-merge", ask_to_end=self._out.close)
            )
        for thread in self._threads:
            thread.start()

    def get(self, timeout_s: float) -> Merged | None:
        """The next batches, or the end of the pass; None if nothing is ready in time. Raises what any thread raised."""
        if not self._merge.passes_through:
            return self._out.get(timeout_s)
        try:
            return self._next(timeout_s)
        except LengthMismatch:
            self._learn_lengths()
            raise self._align.mismatch() from None

    @property
    def ready(self) -> int:
        """How many batches are merged, or in one piece and need no merging, and wait to be taken."""
        if self._merge.passes_through:
            return min(teacher.rows_ready for teacher in self._teachers) // self._options.batch_size
        return sum(len(merged.batches or ()) for merged, _ in self._out.items())

    @property
    def queued_bytes(self) -> list[int]:
        """Per teacher: what the rows that wait to be merged or taken have in memory."""
        return [teacher.channel.used + teacher.order.pending_bytes for teacher in self._teachers]

    @property
    def waiting_for(self) -> str:
        """The record that keeps the next batch waiting, in words."""
        for index in self._align.starving():
            teacher = self._teachers[index]
            if not len(teacher.channel):
                partition, what = teacher.order.waiting_for
                return f"{teacher.source.name}, partition {partition}, {what}"
        return "the next batch to be merged"

    @property
    def dropped(self) -> list[dict[str, int]]:
        """Per teacher: duplicates and zombies' records dropped so far."""
        return [
            {"duplicates": teacher.order.duplicates, "zombies": teacher.zombies}
            for teacher in self._teachers
        ]

    def _merge_all(self) -> None:
        try:
            while True:
                merged = self._next(_POLL_S)
                if merged is not None:
                    self._out.put(merged, self._share_of(merged))
                    if merged.batches is None:
                        return
                if self._out.closed:
                    return
                # Kept here, its memory would not be freed while the next one is awaited.
                merged = None
        except Closed:
            pass
        except LengthMismatch:
            self._learn_lengths()
            self._out.fail(self._align.mismatch())
        except BaseException as error:  # whatever it is, the user must hear of it
            self._out.fail(error)

    def _share_of(self, merged: Merged) -> int:
        """The share of the prefetch budget that merged batches use, by number and by memory (one batch's limit in all)."""
        by_size = -(-self._options.prefetch * merged.nbytes // self._options.batch_bytes)
        return max(len(merged.batches or (None,)), by_size)

    def _next(self, timeout_s: float) -> Merged | None:
        """Merge the rows that were left over, or the next ones; None if they do not arrive in time."""
        size = self._options.batch_size
        if self._rest is None:
            if not self._brought(timeout_s):
                return None
            aligned = self._align.pop()
            if aligned is None or (aligned.rows < size and self._options.drop_last):
                return Merged(positions=self._align.after_pass())
        else:
            aligned = self._rest
        began = time.perf_counter()
        rows, nbytes = self._merge.measured(aligned, size)
        aligned, self._rest = aligned.split(rows)
        batches = self._merge.batches(aligned, size)
        self._tally.merge_s += time.perf_counter() - began
        shares = tuple((share.chunk.trail, share.start) for share in aligned.shares)
        return Merged(batches=batches, shares=shares, nbytes=nbytes)

    def _brought(self, timeout_s: float) -> bool:
        """Fetch chunks until every teacher has a batch ready or has ended. False if that takes too long."""
        while starving := self._align.starving():
            for index in starving:
                began, late = (
                    time.perf_counter(),
                    [each for each in starving if self._teachers[each].is_late],
                )
                brought = self._bring(index, self._teachers[index], timeout_s)
                seconds = time.perf_counter() - began
                # Who is waited for beside the one that is asked is as late as that one.
                for each in {index, *(each for each in late if self._teachers[each].is_late)}:
                    self._teachers[each].tally.wait_s += seconds
                if not brought:
                    return False
        return True

    def _bring(self, index: int, teacher: _Teacher, timeout_s: float) -> bool:
        """Bring in a teacher's next chunk, or its end; says whether it came in time."""
        if teacher.awaited is None:
            if teacher.failed is not None:
                raise teacher.failed
            item = teacher.channel.get(timeout_s)
            if item is None:
                return False
            if isinstance(item, PassEnd):
                self._align.push(index, item)
                return True
            teacher.awaited = item
        if not teacher.loader.loaded(teacher.awaited, timeout_s):
            return False
        self._push(index, teacher, teacher.awaited)
        teacher.awaited = None
        return True

    def _learn_lengths(self) -> None:
        """Read on to the ends, as far as they come soon, so that the error can name every length."""
        deadline = time.monotonic() + _LENGTHS_WITHIN_S
        for index, teacher in enumerate(self._teachers):
            while (
                not self._align.ended(index)
                and time.monotonic() < deadline
                and not self._out.closed
            ):
                try:
                    item = teacher.channel.get(_POLL_S)
                except BaseException:  # the lengths are what matters now
                    break
                if isinstance(item, PassEnd):
                    self._align.push(index, item)

    def _push(self, index: int, teacher: _Teacher, loading: PendingChunk) -> None:
        """Hand a chunk that was loaded to the aligner; of one that could not be read the batches that are whole."""
        chunk = loading.chunk
        teacher.tally.load_s += loading.seconds
        if loading.error is not None:
            teacher.failed = loading.error
            chunk.rows = chunk.whole_rows - chunk.whole_rows % self._options.batch_size
        if chunk.rows:
            self._align.push(index, chunk)

    def close(self) -> None:
        """End all threads and wait for them."""
        self._out.close()
        for teacher in self._teachers:
            teacher.channel.close()
        for thread in self._threads:
            if thread is threading.current_thread():
                # The garbage collector may let go of an iterator in any thread.
                continue
            thread.join(timeout=30)
            if thread.is_alive():
                log.warning("thread %s has not ended after 30 s", thread.name)
