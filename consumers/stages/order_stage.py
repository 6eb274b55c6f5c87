"""A source -> its records in sequence order: the first stage of a student and of every tool."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from tutelage.consumers.position import Position
from tutelage.consumers.sources.base import ConsumedRecord, Source, StreamInfo
from tutelage.consumers.stages.order import Order, PassEnd
from tutelage.consumers.stages.record_wait import RecordWait
from tutelage.consumers.stages.stage import MOMENT_S
from tutelage.consumers.stats import StreamStats
from tutelage.schemas.errors import TruncatedData, TutelageError

log = logging.getLogger(__name__)

#: Bytes of records to keep while one partition lacks the next record, unless a student says
#: otherwise.
BUDGET_BYTES = 64 << 20


class OrderStage:
    """Reads a stream from a position on and puts its records in order.

    Guarantee: as `Order` says. Records that wait for an earlier one take at most the budget and
    what the source had already fetched: beyond it, the partitions that are not needed are paused.

    Args:
        source: The source, which is open.
        opened: What it found.
        position: Where reading begins.
        needed: The partitions whose records are needed; all if not given.
        budget_bytes: The memory that waiting records may take.
        stats: Where to count what comes.
        timeout_s: How long to wait for the next record, in seconds, whatever else comes. If not
            given, whoever polls decides.
    """

    def __init__(
        self,
        source: Source,
        opened: StreamInfo,
        position: Position,
        *,
        needed: frozenset[int] | None = None,
        budget_bytes: int = BUDGET_BYTES,
        stats: StreamStats | None = None,
        timeout_s: float | None = None,
    ) -> None:
        self.source = source
        self.order = Order(opened.stream, opened.partitions, position, needed=needed)
        self._before = position.before
        source.only(needed)
        self._records = source.read(position)
        self._budget_bytes = budget_bytes
        self._pauses = False
        self._stats = stats if stats is not None else StreamStats()
        self._dropped_before = (self._stats.duplicates, self._stats.zombies)
        self._stale_before = source.stale_records
        self._wait: RecordWait | None = None
        if timeout_s is not None:
            hint = "its teacher has not finished; started again, it goes on"
            self._wait = RecordWait(source, self.order, timeout_s=timeout_s, log=log, hint=hint)

    @property
    def zombies(self) -> int:
        """Records that a writer wrote after another took over its run, or began a newer one."""
        return self.order.zombies + self.source.stale_records - self._stale_before

    def poll(self, *, eager: bool = True) -> ConsumedRecord | PassEnd | None:
        """Return the next record in order or the end of the pass; None if it is not there yet.

        Raises:
            WaitTimeout: It did not come within `timeout_s`; the message names it.
            DataError: Data are wrong or missing; the message says where.
            TransportError: Reading failed.
        """
        try:
            return self._next()
        except TutelageError as error:
            cause = self.source.explain(error)
            if cause is error:
                raise
            raise cause from error

    def _next(self) -> ConsumedRecord | PassEnd | None:
        until = 0.0
        quiet = False
        while (item := self.order.pop()) is None:
            # Only now is it known which partition the stream waits for.
            self._pause_or_resume()
            if self._wait is not None:
                self._wait.tick(quiet=quiet)
            try:
                consumed = next(self._records)
            except StopIteration:
                raise self._ended_early() from None
            if consumed is None:
                if self._wait is None:
                    return None
                quiet = True
                continue
            began = time.perf_counter()
            self.order.push(consumed)
            now = time.perf_counter()
            self._count(consumed, now - began)
            quiet, until = False, until or now + MOMENT_S
            if now > until and self._wait is None:
                item = self.order.pop()
                break
        if self._wait is not None:
            self._wait.end()
        return self._counted(item) if isinstance(item, PassEnd) else item

    def _counted(self, end: PassEnd) -> PassEnd:
        """Have the next pass's position say how many records lie before it."""
        position = end.next_pass
        if len(self._before) == position.pass_index - 1:
            self._before = (*self._before, end.end.records)
        return replace(end, next_pass=replace(position, before=self._before))

    def _ended_early(self) -> TruncatedData:
        partition, what = self.order.waiting_for
        return TruncatedData(
            f"{self.source.name} stopped giving records before {what} came from partition "
            f"{partition}: {type(self.source).__name__}.read must wait for more, or raise what is "
            "wrong"
        )

    def _pause_or_resume(self) -> None:
        """Pause the partitions that are not needed while too many of their records wait."""
        memory_bytes = self.order.memory_bytes
        if self._pauses:
            self._pauses = memory_bytes > self._budget_bytes // 2
            self.source.hold(self.order.others() if self._pauses else frozenset())
        elif memory_bytes > self._budget_bytes:
            self._pauses = True
            self.source.hold(self.order.others())

    def _count(self, consumed: ConsumedRecord, seconds: float) -> None:
        stats, record, partition = self._stats, consumed.record, consumed.partition
        stats.decode_s += seconds + consumed.decode_s
        stats.records[partition] += record.head.end is None
        stats.rows[partition] += record.head.rows
        stats.nbytes[partition] += record.nbytes
        duplicates, zombies = self._dropped_before
        stats.duplicates = duplicates + self.order.duplicates
        stats.zombies = zombies + self.zombies

    def close(self) -> None:
        """Stop reading. May be called twice."""
        self._records.close()
