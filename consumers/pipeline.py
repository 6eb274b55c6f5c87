"""Sources -> merged batches, read ahead: one thread per teacher fetches and orders, one merges; all bounded, all ended by `close`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tutelage.consumers.align import Align
from tutelage.consumers.channel import Channel, Closed
from tutelage.consumers.merge import Batch, Merge
from tutelage.consumers.order import Order, PassEnd
from tutelage.consumers.rebatch import Rebatch
from tutelage.consumers.source import Arrival, Opened, Position, Source
from tutelage.schemas.errors import LengthMismatch

log = logging.getLogger(__name__)

_POLL_S = 0.25
_LENGTHS_WITHIN_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineOptions:
    """One pass's batches: their size, whether a short last one is dropped, and how much may be read ahead."""

    batch_size: int
    drop_last: bool
    truncate: bool
    prefetch: int
    budget_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """A batch and the positions behind it; without a batch, the end of the pass."""

    batch: Batch | None = field(repr=False)
    positions: tuple[Position, ...]
    rows: int


class _Teacher:
    """One teacher's thread and what it gives."""

    def __init__(self, source: Source, opened: Opened, position: Position, budget_bytes: int) -> None:
        self.source = source
        self.order = Order(opened.stream, opened.partitions, position)
        self.channel: Channel[Arrival | PassEnd] = Channel(budget_bytes)
        self._position = position
        self._budget_bytes = budget_bytes
        self._holding = False
        self.thread = threading.Thread(target=self._fetch, name=f"tutelage-fetch-{source.name}", daemon=True)

    def _fetch(self) -> None:
        arrivals = self.source.read(self._position)
        try:
            for arrival in arrivals:
                if self.channel.closed:
                    return
                if arrival is None:
                    continue
                self.order.push(arrival)
                while (item := self.order.pop()) is not None:
                    self.channel.put(item, item.record.raw.nbytes if isinstance(item, Arrival) else 0)
                    if isinstance(item, PassEnd):
                        return
                self._hold()
        except Closed:
            pass
        except BaseException as error:  # whatever it is, the reader must hear of it
            self.channel.fail(error)
        finally:
            arrivals.close()

    def _hold(self) -> None:
        """Where other partitions run far ahead of the one that is awaited, fetch only that one until it has caught up."""
        if self._holding:
            self._holding = self.order.pending_bytes >= self._budget_bytes // 2
            self.source.hold(self.order.others() if self._holding else frozenset())
        elif self.order.pending_bytes > self._budget_bytes:
            self._holding = True
            self.source.hold(self.order.others())


class Pipeline:
    """One pass on its way. `get` gives batches in order; `close` ends every thread."""

    def __init__(
        self,
        sources: Sequence[Source],
        opened: Sequence[Opened],
        positions: Sequence[Position],
        merge: Merge,
        options: PipelineOptions,
        *,
        first_row: int,
    ) -> None:
        self._merge = merge
        self._options = options
        self._teachers = [
            _Teacher(source, found, position, options.budget_bytes)
            for source, found, position in zip(sources, opened, positions, strict=True)
        ]
        self._rebatches = [
            Rebatch(
                options.batch_size,
                partitions=found.partitions,
                rows_per_record=found.stream.rows_per_record,
                position=position,
            )
            for found, position in zip(opened, positions, strict=True)
        ]
        names = [found.stream.teacher for found in opened]
        self._align = Align(names, self._rebatches, first_row=first_row, truncate=options.truncate)
        self._out: Channel[Merged] = Channel(options.prefetch)
        self._thread = threading.Thread(target=self._merge_all, name="tutelage-merge", daemon=True)
        for teacher in self._teachers:
            teacher.thread.start()
        self._thread.start()

    def get(self, timeout_s: float) -> Merged | None:
        """The next batch, or the end of the pass; None if nothing is ready in time. Raises what any thread raised."""
        return self._out.get(timeout_s)

    @property
    def ready(self) -> int:
        """How many batches are merged and wait to be taken."""
        return len(self._out)

    @property
    def waiting_for(self) -> str:
        """The record that keeps the next batch waiting, in words."""
        for index in self._align.starving():
            teacher = self._teachers[index]
            if not len(teacher.channel):
                partition, sequence = teacher.order.waiting_for
                return f"{teacher.source.name}, partition {partition}, record {sequence}"
        return "the next batch to be merged"

    @property
    def counters(self) -> list[tuple[int, int]]:
        """Per teacher: duplicates and zombies' records dropped so far."""
        return [(teacher.order.duplicates, teacher.order.zombies) for teacher in self._teachers]

    def _merge_all(self) -> None:
        try:
            while self._feed():
                aligned = self._align.pop()
                short = aligned is not None and aligned.rows < self._options.batch_size and self._options.drop_last
                if aligned is None or short:
                    self._out.put(Merged(batch=None, positions=self._after_pass(), rows=0), 1)
                    return
                positions = tuple(share.position for share in aligned.shares)
                self._out.put(Merged(batch=self._merge.batch(aligned), positions=positions, rows=aligned.rows), 1)
        except Closed:
            pass
        except LengthMismatch:
            self._learn_lengths()
            self._out.fail(self._align.mismatch())
        except BaseException as error:  # whatever it is, the user must hear of it
            self._out.fail(error)

    def _learn_lengths(self) -> None:
        """Read on to the ends, as far as they come soon, so that the error can name every length."""
        deadline = time.monotonic() + _LENGTHS_WITHIN_S
        for teacher, rebatch in zip(self._teachers, self._rebatches, strict=True):
            while rebatch.end is None and time.monotonic() < deadline and not self._out.closed:
                try:
                    item = teacher.channel.get(_POLL_S)
                except BaseException:  # the lengths are what matters now
                    break
                if isinstance(item, PassEnd):
                    rebatch.end = item

    def _feed(self) -> bool:
        """Bring in records until every teacher has a batch ready or is at its end; False if the pipeline is closed."""
        while starving := self._align.starving():
            for index in starving:
                item = self._teachers[index].channel.get(_POLL_S)
                if self._out.closed:
                    return False
                if item is not None:
                    self._rebatches[index].push(item)
        return True

    def _after_pass(self) -> tuple[Position, ...]:
        """Where each teacher's next pass begins; a place before it where the end was not reached (truncated)."""
        return tuple(rebatch.end.next_pass if rebatch.end is not None else rebatch.position for rebatch in self._rebatches)

    def close(self) -> None:
        """End all threads and wait for them."""
        self._out.close()
        for teacher in self._teachers:
            teacher.channel.close()
        for thread in (self._thread, *(teacher.thread for teacher in self._teachers)):
            thread.join(timeout=30)
            if thread.is_alive():
                log.warning("thread %s has not ended after 30 s", thread.name)
