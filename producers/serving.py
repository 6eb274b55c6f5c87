"""Inputs -> devices -> records -> sink: one pass, driven by one thread that never waits for the wrong thing.

Three kinds of futures are under way: a group of batches being read, groups on devices, records being encoded. The loop takes the
first that is done and hands it on; each window is bounded, so memory is too.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import chain
from typing import Any

from tutelage.producers.devices import Devices, Forwarded
from tutelage.producers.encoding import Encoding
from tutelage.producers.inputs import GROUP_SECONDS, MAX_GROUP, ReadAhead, rows_in
from tutelage.producers.run import Run, nbytes_of
from tutelage.producers.transfer import HostBatch, WireOptions, start_transfers
from tutelage.schemas.errors import SchemaError
from tutelage.schemas.waiting import Wait

log = logging.getLogger(__name__)

# Batches are handed on in groups that have about this much, so that small ones do not drown in hand-overs and large ones do not wait.
GROUP_BYTES = 4 << 20
_POLL_S = 0.25
_LINGER_POLL_S = 0.005
# A wait for inputs or model is told from their ordinary pace by this.
_NOTICED_S = 1.0


class Serving:
    """One pass of a run. `progress` is called with the run after each record."""

    def __init__(
        self, run: Run, devices: Devices, encoding: Encoding, options: WireOptions,
        *, keeps_rows: bool | None, timeout_s: float, progress: Callable[[Run], None],
    ) -> None:  # fmt: skip
        self._run = run
        self._devices = devices
        self._encoding = encoding
        self._options = options
        self._keeps_rows = keeps_rows
        self._timeout_s = timeout_s
        self._progress = progress
        self._forwards: deque[Future[Forwarded]] = deque()

    def one_pass(self, batches: Iterator[Any]) -> None:
        """Serve a pass's batches and write its end."""
        reader = ReadAhead(self._after_written(batches) if self._run.skip_rows else batches)
        try:
            self._loop(reader)
            self._encoding.add(self._run.end_pass())
            while self._encoding.oldest is not None:
                self._run.doing.beat()
                self._write()
            self._run.doing.now("between passes")
        finally:
            reader.close()

    def _loop(self, reader: ReadAhead) -> None:
        waiting = self._new_wait()
        depth = 2 * len(self._devices)
        doing, tally = self._run.doing, self._run.tally
        doing.now("teaching", beats=True)
        while True:
            doing.beat()
            group = reader.next_group() if len(self._forwards) < depth else None
            forward = self._forwards[0] if self._forwards and self._encoding.has_room else None
            record = self._encoding.oldest
            if group is not None and group.done():
                taken = reader.take()
                if taken:
                    self._forwards.append(self._devices.submit(taken, self._transfer))
            elif forward is not None and forward.done():
                # Before writing, which may take long: what is encoded meanwhile is there when it is done.
                self._take(self._forwards.popleft().result(), reader)
            elif record is not None and record.done():
                self._write()
            elif self._run.undecided and self._run.due:
                self._encoding.add(self._run.settle())
            else:
                pending: list[Future[Any]] = [future for future in (group, forward, record) if future is not None]
                if not pending:
                    return
                began = time.perf_counter()
                soon = self._run.undecided or (group is not None and reader.holds_part)
                wait(pending, timeout=_LINGER_POLL_S if soon else _POLL_S, return_when=FIRST_COMPLETED)
                if group is not None and not group.done() and (part := reader.take_part()):
                    self._forwards.append(self._devices.submit(part, self._transfer))
                if pending == [group]:
                    # Nothing is under way behind the inputs: they are what is waited for.
                    tally.input_wait_s += time.perf_counter() - began
                self._run.poll()
                waiting.tick()
                if waiting.waited_s > _NOTICED_S:
                    doing.wait = waiting
                continue
            waiting = self._new_wait()
            doing.wait = None

    def _new_wait(self) -> Wait:
        return Wait("the teacher's inputs or model to give the next batch", timeout_s=self._timeout_s, log=log)

    def _transfer(self, group: list[Any], stream: Any) -> list[HostBatch]:
        return start_transfers(group, self._options, self._run.promised, stream)

    def _take(self, forwarded: Forwarded, reader: ReadAhead) -> None:
        counts = [count for batch in forwarded.batches for count in batch.counts]
        if self._keeps_rows is not False:
            for input_rows, rows in zip(forwarded.input_rows, counts, strict=True):
                self._compare_rows(input_rows, rows)
            if counts:
                self._devices.counts_rows = bool(self._keeps_rows)
        self._run.tally.forward_s += forwarded.seconds
        nbytes = 0
        for batch in forwarded.batches:
            columns = batch.columns()
            nbytes += sum(nbytes_of(column) for column in columns.values())
            self._encoding.add(self._run.add(columns, batch.rows, batch.description))
        size = max(1, len(counts))
        reader.group_size = max(
            1,
            min(
                MAX_GROUP,
                2 * reader.group_size,
                int(GROUP_SECONDS * size / max(forwarded.seconds, 1e-9)),
                GROUP_BYTES * size // max(1, nbytes),
            ),
        )

    def _compare_rows(self, input_rows: int | None, rows: int) -> None:
        """Learn from the first batch whether knowledge has its input's rows, and hold the others to it."""
        if self._keeps_rows is None:
            self._keeps_rows = input_rows == rows
        if self._keeps_rows and input_rows is not None and input_rows != rows:
            raise SchemaError(
                f"the model gave {rows} rows for a batch of {input_rows}, after it gave as many as the batch had; if it drops or adds rows "
                "on purpose, say so: serve(..., keeps_rows=False)"
            )

    def _write(self) -> None:
        self._encoding.write_oldest()
        self._progress(self._run)

    def _after_written(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches that hold rows which are not written yet.

        The first batch of the pass goes through the model all the same: it shows whether the teacher still gives what it gave,
        and how input rows and knowledge rows relate. If its knowledge has as many rows as its input, the others are passed
        over by counting inputs; if not, they are computed again and dropped by their rows.
        """
        first = next(batches, None)
        if first is None:
            return iter(())
        waiting = self._new_wait()
        future = self._devices.submit([first], self._transfer)
        while not wait([future], timeout=_POLL_S).done:
            waiting.tick()
        forwarded = future.result()
        ((batch,), (input_rows,)) = forwarded.batches, forwarded.input_rows
        self._compare_rows(input_rows, batch.rows)
        self._encoding.add(self._run.add(batch.columns(), batch.rows, batch.description))
        countable = bool(self._keeps_rows) and input_rows is not None
        doing = f"passing over {self._run.skip_rows} rows that are written" + ("" if countable else ", by computing them again")
        self._run.doing.now(doing)
        log.info("%s", doing)
        for inputs in batches:
            rows = rows_in(inputs) if countable else None
            if rows is None or rows > self._run.skip_rows:
                return chain((inputs,), batches)
            self._run.pass_over(rows)
        return iter(())
