"""Inputs -> devices -> records -> sink: runs one pass from a single thread.

Three kinds of futures are pending: a group of batches being read, groups on devices, and records
being encoded. The loop takes the first one that is done and passes it to the next stage. Each
window is bounded, and so is the memory.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, TypeVar

from tutelage.producers.run import Run
from tutelage.producers.stages.columns import nbytes_of
from tutelage.producers.stages.devices import Devices, Forwarded
from tutelage.producers.stages.encoding import Encoding
from tutelage.producers.stages.host_batch import HostBatch
from tutelage.producers.stages.inputs import Inputs
from tutelage.producers.stages.read_ahead import GROUP_SECONDS, MAX_GROUP, ReadAhead
from tutelage.producers.stages.row_counts import rows_in
from tutelage.producers.stages.transfer import start_transfers
from tutelage.producers.stages.worker import Executor
from tutelage.producers.wire_options import WireOptions
from tutelage.schemas.errors import SchemaError
from tutelage.transport.waiting import Wait

log = logging.getLogger(__name__)

# Batches move between threads in groups of about this size: small batches share the cost of a
# hand-over, and large ones do not wait for each other.
GROUP_BYTES = 4 << 20
_POLL_S = 0.25
_LINGER_POLL_S = 0.005
# Waits for the inputs or the model are reported as a wait only after this time.
_NOTICED_S = 1.0
# A batch is logged as slow when it takes this many times as long as the slowest one so far.
_SLOWER = 3.0
# Group size while batches are only counted, not computed.
_GROUP_PASSED_OVER = 16

_Result = TypeVar("_Result")


class Serving:
    """Runs one pass of a run. `progress` is called with the run after each record."""

    def __init__(
        self, run: Run, devices: Devices, encoding: Encoding, options: WireOptions,
        *, keeps_rows: bool | None, timeout_s: float, progress: Callable[[Run], None], thread: Executor, read_ahead: bool,
    ) -> None:  # fmt: skip
        self._run = run
        self._devices = devices
        self._encoding = encoding
        self._options = options
        self._keeps_rows = keeps_rows
        self._timeout_s = timeout_s
        self._progress = progress
        self._thread = thread
        self._read_ahead = read_ahead
        # The longest wait for the inputs or the model so far.
        self._pace_s = 0.0
        self._forwards: deque[Future[Forwarded]] = deque()

    def read_through(self, inputs: Inputs, index: int) -> None:
        """Read and drop a pass that the sink holds, so that the inputs reach the next pass."""
        doing = f"reading through pass {index}, which is written, to come to pass {self._run.pass_index}"
        self._run.doing.now(doing)
        log.info("%s", doing)
        reader = ReadAhead(inputs.one_pass(index), thread=self._thread, ahead=self._read_ahead)
        try:
            while self._done(reader.read_through()):
                self._run.doing.beat()
        finally:
            reader.close()

    def one_pass(self, inputs: Inputs) -> None:
        """Run the model over the inputs for the run's next pass, and write its records."""
        reader = ReadAhead(
            inputs.one_pass(self._run.pass_index), depth=2 if self._read_ahead else 1, thread=self._thread, ahead=self._read_ahead,
            new_memory=lambda: inputs.new_memory,
        )  # fmt: skip
        try:
            if self._run.skip_rows:
                self._pass_over_written(reader)
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
            if reader.waits and not self._forwards:
                reader.release()
            group = reader.next_group() if len(self._forwards) < depth else None
            forward = self._forwards[0] if self._forwards and self._encoding.has_room else None
            record = self._encoding.oldest
            if group is not None and group.done():
                self._submit(reader.take(), reader)
            elif forward is not None and forward.done():
                # This comes before writing, which may take long: the threads encode meanwhile.
                self._take(self._forwards.popleft().result(), reader)
            elif record is not None and record.done():
                self._write()
            elif self._run.undecided and self._run.due:
                self._encoding.add(self._run.settle())
            else:
                pending: list[Future[Any]] = [
                    future for future in (group, forward, record) if future is not None
                ]
                if not pending:
                    return
                began = time.perf_counter()
                soon = self._run.undecided or (group is not None and reader.holds_part)
                wait(
                    pending,
                    timeout=_LINGER_POLL_S if soon else _POLL_S,
                    return_when=FIRST_COMPLETED,
                )
                if group is not None and not group.done():
                    self._submit(reader.take_part(), reader)
                if pending == [group]:
                    # No later stage has work, so this time was spent waiting for the inputs.
                    tally.input_wait_s += time.perf_counter() - began
                self._run.poll()
                waiting.tick()
                if waiting.waited_s > _NOTICED_S:
                    doing.wait = waiting
                continue
            self._pace_s = max(self._pace_s, waiting.waited_s)
            waiting = self._new_wait()
            doing.wait = None

    def _submit(self, group: list[Any], reader: ReadAhead) -> None:
        if group:
            self._forwards.append(
                self._devices.submit(group, self._transfer, owning=reader.blocked)
            )

    def _new_wait(self) -> Wait:
        # A wait is not logged until it is clearly longer than earlier ones.
        return Wait(
            "the teacher's inputs or model to give the next batch",
            timeout_s=self._timeout_s,
            log=log,
            quiet_s=_SLOWER * self._pace_s,
        )

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
            nbytes += sum(nbytes_of(column) for column in batch.columns().values())
            self._add(batch)
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
        """Compare a batch's knowledge rows with its input rows.

        The first batch decides whether they are equal, unless the user has said so. If they are,
        SchemaError is raised for a later batch where they differ.
        """
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

    def _pass_over_written(self, reader: ReadAhead) -> None:
        """Read up to the first batch with rows that are not written yet.

        The pass's first batch goes through the model in any case. It shows whether the model's
        output still has the same description, and whether knowledge has as many rows as its input.
        If it has, the other written batches are skipped by counting input rows. If not, they are
        computed again, and their rows are dropped.
        """
        group = self._next_group(reader)
        if not group:
            return
        forwarded = self._done(
            self._devices.submit(group[:1], self._transfer, owning=reader.blocked)
        )
        ((batch,), (input_rows,)) = forwarded.batches, forwarded.input_rows
        self._compare_rows(input_rows, batch.rows)
        self._add(batch)
        countable = bool(self._keeps_rows) and input_rows is not None
        doing = f"passing over {self._run.skip_rows} rows that are written" + (
            "" if countable else ", by computing them again"
        )
        self._run.doing.now(doing)
        log.info("%s", doing)
        reader.group_size = _GROUP_PASSED_OVER
        rest = group[1:]
        while True:
            for index, inputs in enumerate(rest):
                rows = rows_in(inputs) if countable else None
                if rows is None or rows > self._run.skip_rows:
                    self._submit(rest[index:], reader)
                    reader.group_size = 1
                    return
                self._run.pass_over(rows)
            rest = self._next_group(reader)
            if not rest:
                return

    def _next_group(self, reader: ReadAhead) -> list[Any]:
        """Wait for the next batches and return them; an empty list at the end of the inputs.

        Batches taken earlier must no longer be in use.
        """
        while True:
            if reader.waits:
                reader.release()
            future = reader.next_group()
            if future is None:
                return []
            self._done(future)
            if group := reader.take():
                return group

    def _done(self, future: Future[_Result]) -> _Result:
        """Wait for a future and return its result. Polls the sink meanwhile."""
        waiting = self._new_wait()
        while not wait([future], timeout=_POLL_S).done:
            self._run.doing.beat()
            self._run.poll()
            waiting.tick()
        return future.result()

    def _add(self, batch: HostBatch) -> None:
        columns = batch.columns()
        if batch.described:
            self._encoding.add(self._run.add(columns, batch.rows, batch.description))
