"""Inputs -> devices -> records -> sink: runs the passes of a run from one thread.

The stages never wait. This is where the thread waits: for a group of batches that is read, for a
group on a device, or for a record that is encoded, whichever is done first.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, TypeVar

from tutelage.producers.run import Run
from tutelage.producers.stages.devices import Devices
from tutelage.producers.stages.encode import EncodeStage, EncodeThreads
from tutelage.producers.stages.encode_vectors import encode_vectors
from tutelage.producers.stages.forward import ForwardStage
from tutelage.producers.stages.gather_stage import GatherStage
from tutelage.producers.stages.host_batch import HostBatch
from tutelage.producers.stages.inputs import Inputs
from tutelage.producers.stages.places import Place, Places
from tutelage.producers.stages.read_ahead import ReadAhead
from tutelage.producers.stages.row_counts import rows_in
from tutelage.producers.stages.transfer import start_transfers
from tutelage.producers.stages.worker import Executor
from tutelage.producers.wire_options import WireOptions
from tutelage.producers.writer import RecordWriter
from tutelage.transport.waiting import Wait

log = logging.getLogger(__name__)

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
    """Runs passes of a run.

    Args:
        run: The run.
        writer: Gives its records to the sink.
        devices: The replicas of the model.
        encoders: The threads that encode.
        options: How keys travel.
        keeps_rows: Whether knowledge has as many rows as its input; None if a pass's first batch
            decides.
        timeout_s: How long inputs and model may take for one batch, in seconds.
        progress: Called with the run after each record.
        thread: Where inputs are read.
        read_ahead: Whether they are read before they are needed.
    """

    def __init__(
        self,
        run: Run,
        writer: RecordWriter,
        devices: Devices,
        encoders: EncodeThreads,
        options: WireOptions,
        *,
        keeps_rows: bool | None,
        timeout_s: float,
        progress: Callable[[Run], None],
        thread: Executor,
        read_ahead: bool,
    ) -> None:
        self._run = run
        self._writer = writer
        self._devices = devices
        self._encoders = encoders
        self._options = options
        self._keeps_rows = keeps_rows
        self._timeout_s = timeout_s
        self._progress = progress
        self._thread = thread
        self._read_ahead = read_ahead
        # The longest wait for the inputs or the model so far.
        self._longest_s = 0.0

    def read_through(self, inputs: Inputs, index: int) -> None:
        """Read and drop a pass that the sink holds, so that the inputs reach the next pass."""
        doing = (
            f"reading through pass {index}, which is written, to come to pass "
            f"{self._run.pass_index}"
        )
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
            inputs.one_pass(self._run.pass_index),
            depth=2 if self._read_ahead else 1,
            thread=self._thread,
            ahead=self._read_ahead,
            new_memory=lambda: inputs.new_memory,
        )
        forward = ForwardStage(
            reader,
            self._devices,
            Places(self._run.name, self._run.pass_index) if self._options.encoded else None,
            self._encode,
            self._transfer,
            keeps_rows=self._keeps_rows,
        )
        gathered = GatherStage(forward, self._run, self._writer.open)
        records = EncodeStage(gathered, self._writer.encode, self._encoders)
        try:
            if self._run.skip_rows:
                self._pass_over_written(reader, forward, gathered)
            self._write_all(records, forward, reader)
            self._run.doing.now("between passes")
        finally:
            reader.close()

    def _encode(self, place: Place, knowledge: Any) -> Any:
        return encode_vectors(knowledge, self._options, self._run.promised, place)

    def _transfer(self, group: list[Any], cuda_stream: Any) -> list[HostBatch]:
        return start_transfers(group, self._options, self._run.promised, cuda_stream)

    def _write_all(self, records: EncodeStage, forward: ForwardStage, reader: ReadAhead) -> None:
        """Write records until the pass has ended."""
        run, doing = self._run, self._run.doing
        doing.now("teaching", beats=True)
        waiting, awaited = self._new_wait(), list[Future[Any]]()
        waited = False
        while True:
            doing.beat()
            record = records.poll(eager=waited)
            waited = False
            if record is not None:
                self._writer.write(record)
                self._progress(run)
                continue
            pending = list(records.pending())
            if not pending:
                return
            if pending != awaited:
                # Something came since the last wait.
                self._longest_s = max(self._longest_s, waiting.waited_s)
                waiting, awaited, doing.wait = self._new_wait(), pending, None
            began = time.perf_counter()
            soon = run.is_undecided or reader.holds_part
            wait(
                pending,
                timeout=_LINGER_POLL_S if soon else _POLL_S,
                return_when=FIRST_COMPLETED,
            )
            waited = True
            if forward.waits_for_inputs and not records.is_busy:
                run.stats.input_wait_s += time.perf_counter() - began
            self._writer.poll()
            waiting.tick()
            if waiting.waited_s > _NOTICED_S:
                doing.wait = waiting

    def _new_wait(self) -> Wait:
        # A wait is not logged until it is clearly longer than earlier ones.
        return Wait(
            "the teacher's inputs or model to give the next batch",
            timeout_s=self._timeout_s,
            log=log,
            quiet_s=_SLOWER * self._longest_s,
        )

    def _pass_over_written(
        self, reader: ReadAhead, forward: ForwardStage, gathered: GatherStage
    ) -> None:
        """Read up to the first batch with rows that are not written yet.

        The pass's first batch goes through the model in any case. It shows whether the model's
        output still has the same description, and whether knowledge has as many rows as its input.
        If it has, the other written batches are skipped by counting input rows. If not, they are
        computed again, and their rows are dropped.
        """
        group = self._next_group(reader)
        if not group:
            return
        forwarded = self._done(forward.first(group[0]))
        ((batch,), (input_rows,)) = forwarded.batches, forwarded.input_rows
        forward.check_rows(input_rows, batch.rows)
        gathered.add(forwarded)
        countable = bool(forward.keeps_rows) and input_rows is not None
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
                    forward.submit(rest[index:])
                    reader.group_size = 1
                    return
                self._run.pass_over(rows)
                forward.pass_over(inputs)
            self._writer.open()
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
            self._writer.poll()
            waiting.tick()
        return future.result()
