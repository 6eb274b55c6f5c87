"""`Teacher`: what users hold to write a model's knowledge.

Pantheon's teacher has the same methods: start, send, recv, dump (here `write`) and
start_knowledge_service (here `serve`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch

from tutelage.producers.answers.answering import Answering
from tutelage.producers.batch_writer import BatchWriter
from tutelage.producers.control_messages import ControlMessages
from tutelage.producers.run import Run
from tutelage.producers.run_spec import RunSpec
from tutelage.producers.serving import Serving
from tutelage.producers.sinks.base import Sink
from tutelage.producers.stages.devices import Devices, Model
from tutelage.producers.stages.encode import EncodeThreads, postprocess_threads
from tutelage.producers.stages.inputs import Inputs
from tutelage.producers.stages.thread_context import ThreadContext
from tutelage.producers.stages.worker import CallingThread, Executor, Worker
from tutelage.producers.wire_options import wire_options
from tutelage.producers.writer import RecordWriter, begin_or_continue
from tutelage.schemas.arguments import check_flag, check_seconds, check_text, check_whole_number
from tutelage.schemas.encodings import Encoding
from tutelage.schemas.errors import ConfigurationError
from tutelage.transport.status import Activity, Status

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT_S = 3600.0
_END_WAIT_S = 2.0  # for the inputs' generator to come to its end when `serve` ends in an error


class Teacher(ControlMessages, Answering):
    """Writes what a model knows to a sink: one run, of one or more passes over its inputs.

    Guarantee: the sink gets every row once, in the order of the inputs, after any number of
    restarts. An incomplete run is never taken for a complete one.

    As a context manager it starts on entry; on exit it ends a pass that `write` filled, and closes.
    It cannot be started twice. Before `send`, `recv` and `ask` it sends the full records it has.

    Args:
        sink: Where the run is written: a `FileSink`, `KafkaSink` or other `Sink`.
        name: What the student calls the teacher. If not given, the topic's or file's name.
        revision: What the model is, such as a commit or a checkpoint.
        inputs_fingerprint: A text that stands for what it reads: data set, tokenizer, order, seed.
        head: The checksum of the head for the hidden states that it sends (`Head.checksum()`).
        passes: How many times the teacher goes over its inputs, from 1.
        rows_per_record: Rows in one record. If not given, about 4 MB, or what comes within 20 ms.
        wire: How keys travel: a dtype for all floats, `"float16"`, `"bfloat16"`, `"float32"` or
            torch's; or per key a dtype or an encoding of its vectors, `Sampled(25)`, `TopK(64)`,
            `Int8()`, or their texts such as `"sampled:25"`.
        ragged_keys: Keys whose rows differ in length, given as lists of one tensor a row, or padded.
        run_id: The run's name, unique in its topic; random if not given. With it, a start after the
            run's end does nothing; without it, that is an error.
        new_run: Begin a new run behind the one that the topic holds. With `run_id` it continues the
            run if the topic's newest run has that name already.

    Raises:
        ConfigurationError: An argument has the wrong type or value.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        name: str | None = None,
        revision: str = "",
        inputs_fingerprint: str = "",
        head: str = "",
        passes: int = 1,
        rows_per_record: int | None = None,
        wire: Mapping[str, str | Encoding] | str = "",
        ragged_keys: Iterable[str] = (),
        run_id: str | None = None,
        new_run: bool = False,
    ) -> None:
        if not isinstance(sink, Sink):
            raise ConfigurationError(
                f"sink is a {type(sink).__name__}; give a FileSink, a KafkaSink or another Sink"
            )
        self._sink = sink
        self._spec = RunSpec(
            teacher=sink.label if name is None else check_text("name", name),
            revision=check_text("revision", revision, empty=True),
            inputs_fingerprint=check_text("inputs_fingerprint", inputs_fingerprint, empty=True),
            head=check_text("head", head, empty=True),
            passes=check_whole_number("passes", passes),
            rows_per_record=None
            if rows_per_record is None
            else check_whole_number("rows_per_record", rows_per_record),
            run_id=None if run_id is None else check_text("run_id", run_id),
            new_run=check_flag("new_run", new_run),
        )
        self._options = wire_options(wire, ragged_keys)
        self._run: Run | None = None
        self._writer: RecordWriter | None = None
        self._batches: BatchWriter | None = None
        self._passes_held = 0
        self._starting = Status(f"connecting to {sink.name}")
        self._closed = False
        self._pid = os.getpid()

    def __repr__(self) -> str:
        run = self._run
        state = (
            "not started"
            if run is None
            else f"{run.rows_written} rows in {run.records_written} records written"
        )
        return f"Teacher({self._spec.teacher!r} to {self._sink!r}, {state})"

    def __enter__(self) -> Teacher:
        if self._run is None:
            self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and self._batches is not None and self._batches.has_open_pass:
                self.end_pass()
                if not self._started().complete:
                    log.warning(
                        "%s: %d of %d passes are written; the run is not complete, the same "
                        "program goes on with it",
                        self._sink.name,
                        self._started().pass_index,
                        self._spec.passes,
                    )
        finally:
            self.close()

    @property
    def run(self) -> Run:
        """What was written so far, in records, rows and bytes."""
        return self._started()

    @property
    def activity(self) -> Activity:
        """What the teacher does right now, in words and seconds. Safe in any thread."""
        run, wait = self._run, self._sink.wait
        if wait is not None:
            return Activity(
                doing=f"waiting for {wait.what}",
                seconds=wait.waited_s,
                begun=run is not None,
                waiting=True,
            )
        if run is None:
            return (self._starting if self._replica is None else self._replica.doing).activity
        return run.doing.activity

    @property
    def name(self) -> str:
        """What the student calls the teacher."""
        return self._spec.teacher

    @property
    def running(self) -> Run | None:
        """What was written so far, or None before the start. Safe in any thread."""
        return self._run

    @property
    def sink(self) -> Sink:
        """Where the teacher writes."""
        return self._sink

    def start(self) -> None:
        """Connect to the sink and look at what it holds. Needs no student.

        Raises:
            ConfigurationError: The teacher was started already.
            SinkExists: The sink holds another or a finished run, or one begun with other options.
            TransportError: Brokers, registry or disk failed, or were away for too long.
        """
        if self._closed or self._run is not None:
            raise ConfigurationError("the teacher was started already; a Teacher is one run")
        try:
            run = begin_or_continue(self._sink, self._spec)
            if run.promised is not None:
                self._options.check_same_as(run.promised, self._sink.name)
            writer = RecordWriter(self._sink, run)
            self._batches = BatchWriter(run, writer, self._sink, self._options, self._spec.passes)
            self._run, self._writer, self._passes_held = run, writer, run.pass_index
        except BaseException:
            self.close()
            raise

    def write(self, knowledge: Mapping[str, Any]) -> None:
        """Write one batch by hand. Its memory may be changed again on return.

        A continued run takes the same batches from the beginning and drops those that are written.

        Args:
            knowledge: Key -> tensor or array `[rows, ...]`, of equal rows.

        Raises:
            ConfigurationError: Not started, all passes are written, or an earlier write failed.
            SchemaError: No knowledge (see `serve`), or other keys, dtypes or row shapes than
                before.
            TransportError: The sink failed.
        """
        self._batch_writer().write(knowledge)

    def end_pass(self) -> None:
        """End the pass that `write` filled; leaving the `with` block does too. The last completes
        the run.

        Raises:
            ConfigurationError: Nothing was written in this pass, or the teacher is not started.
            LengthMismatch: A continued pass has other rows than before.
        """
        self._batch_writer().end_pass()

    def serve(
        self,
        model: Model | Sequence[Model],
        inputs: Any,
        *,
        batch_size: int | None = None,
        devices: Sequence[str | torch.device] | None = None,
        threads: int | None = None,
        keeps_rows: bool | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        read_ahead: bool = True,
        progress: Callable[[Run], None] = lambda run: None,
    ) -> None:
        """Run the model over the inputs and write what it returns, for all passes of the run.

        Inputs are read and the model is called in other threads, with the autocast, default device,
        grad mode and context variables of the calling thread. A module is put in eval mode, and
        comes back in the mode and on the device it had. What was written before an exception stays;
        a new Teacher with the same arguments and inputs goes on from there.

        Args:
            model: A module or a callable, batch -> {key: tensor `[rows, ...]`}; or one per device.
            inputs: The batches: a DataLoader or other iterable, a function that returns one, an
                iterator (for one pass), or an array `[rows, ...]` with `batch_size`. With several
                passes, `set_epoch(pass)` is called where it exists.
            batch_size: Rows in a batch; for arrays only.
            devices: Such as `["cuda:0"]`. If not given, all GPUs, else the CPU, or the `device_map`.
            threads: Threads that encode. If not given, `NUM_POSTPROCESS_THREADS` of the
                environment, or 8.
            keeps_rows: Whether knowledge has as many rows as its input, so that a restart need not
                compute what is written. If not given the first batch decides.
            timeout_s: How long inputs and model may take for one batch, in seconds.
            read_ahead: False reads the inputs in the calling thread, each batch when it is needed.
            progress: Called with the run after each record that was written.

        Raises:
            ConfigurationError: An argument has the wrong type or value, or the inputs gave no rows.
            SchemaError: A value is no tensor, has other rows or shape, or does not fit its wire
                dtype.
            LengthMismatch: A continued pass has other rows than before.
            SinkExists, TransportError: As for `start`.
            WaitTimeout: Inputs or model gave nothing for `timeout_s`.
            Exception: Whatever the model or the inputs raised.
        """
        timeout_s = check_seconds("timeout_s", timeout_s)
        keeps_rows = None if keeps_rows is None else check_flag("keeps_rows", keeps_rows)
        read_ahead = check_flag("read_ahead", read_ahead)
        encoders = postprocess_threads(threads)
        if not callable(progress):
            raise ConfigurationError(
                f"progress is a {type(progress).__name__}; give a function that takes the run"
            )
        given = Inputs(inputs, batch_size=batch_size, passes=self._spec.passes)
        run = self._started() if self._run is not None else self._start_and_run()
        if run.complete:
            log.info("%s holds all of the run; nothing is left to do", self._sink.name)
            return
        context = ThreadContext.current()
        devices_lent = Devices(model, devices, context)
        encode_threads = EncodeThreads(encoders)
        reading: Executor = Worker("tutelage-inputs", context) if read_ahead else CallingThread()

        serving = Serving(
            run,
            self._writing(),
            devices_lent,
            encode_threads,
            self._options,
            keeps_rows=keeps_rows,
            timeout_s=timeout_s,
            progress=progress,
            thread=reading,
            read_ahead=read_ahead,
        )
        try:
            for index in range(0 if given.stateless else self._passes_held):
                serving.read_through(given, index)
            for _ in range(run.pass_index, self._spec.passes):
                serving.one_pass(given)
            run.doing.now("waiting for the last deliveries")
            self._sink.finish()
            run.doing.now("done")
        except BaseException:
            self.close()
            raise
        finally:
            encode_threads.close()
            reading.close()
            devices_lent.close()
            reading.join(_END_WAIT_S)

    def close(self) -> None:
        """Release everything. A run that is not complete can be continued. May be called twice."""
        self._closed = True
        if self._pid == os.getpid():
            self._sink.close()

    def _start_and_run(self) -> Run:
        self.start()
        return self._started()

    def _started(self) -> Run:
        if self._pid != os.getpid():
            raise ConfigurationError(
                f"this teacher belongs to process {self._pid}, and process {os.getpid()} was forked "
                "from it: its connection and its file stay there. Make a Teacher in each process "
                "(a topic or file of its own for each), or write in the parent alone"
            )
        if self._run is None or self._closed:
            raise ConfigurationError(
                f"the teacher is {'closed' if self._closed else 'not started'}; use `with Teacher(...)` or start()"
            )
        return self._run

    def _batch_writer(self) -> BatchWriter:
        self._started()
        assert self._batches is not None, "made at the start"
        return self._batches

    def _writing(self) -> RecordWriter:
        assert self._writer is not None, "made at the start"
        return self._writer
