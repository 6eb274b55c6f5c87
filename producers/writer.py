"""Begins or continues a run in a sink, and gives the sink its records."""

from __future__ import annotations

import logging
import time
import uuid

from tutelage.producers.record_share import ALL_RECORDS, RecordShare
from tutelage.producers.run import NewRun, Run
from tutelage.producers.run_spec import RunSpec
from tutelage.producers.sink_traits import SinkTraits
from tutelage.producers.sinks.base import Sink
from tutelage.producers.stages.encode import PackedRecord, RecordParts
from tutelage.schemas.codec import Codec
from tutelage.transport.waiting import Wait

log = logging.getLogger(__name__)

# Between looks whether another rank has begun a run.
_LOOK_S = 0.1


def begin_or_continue(sink: Sink, spec: RunSpec, share: RecordShare = ALL_RECORDS) -> Run:
    """Look at what a sink holds, and return the run to write.

    It is the run that the sink holds the beginning of, or a new one.

    Args:
        sink: The sink.
        spec: What the run must be.
        share: Which of its records are written here. Only rank 0 begins a run: the others call
            `await_begun` before they write to one that is new.

    Raises:
        ConfigurationError: The ranks cannot share the sink's partitions.
        SinkExists: The sink holds another or a finished run.
        TransportError: Brokers, registry or disk failed.
    """
    tail = sink.tail()
    created_after = 0.0
    if tail is not None and spec.begins_behind(tail):
        sink.begin_run(spec.run_id if not share.rank else None)
        log.info("%s holds %s; a new run begins behind it", sink.name, tail.stream)
        # Readers find the start of a run by record times, so a new run must be later than all
        # records in the topic, whatever this machine's clock says.
        created_after = max(tail.newest_s, tail.stream.created)
        tail = None
    share.check_partitions(sink.partitions, sink.name)
    run_id = tail.stream.run_id if tail is not None else spec.run_id or uuid.uuid4().hex
    sink.bind_run(run_id)
    if tail is not None:
        spec.check_continues(tail, sink.name, holds_runs=sink.holds_runs)
        if tail.complete and not tail.finished:
            # All records are written, but the file was not given its final name.
            sink.open(tail.stream, tail.description)
            sink.finish()
        log.info(
            "%s holds %s up to record %d of pass %d; going on from there",
            sink.name,
            tail.stream,
            tail.sequence,
            tail.pass_index,
        )
    new = NewRun(run_id=run_id, created_after=created_after)
    return Run(spec, share.own_tail(tail) if tail is not None else new, _traits(sink, share))


def await_begun(
    sink: Sink, spec: RunSpec, share: RecordShare, run_id: str, timeout_s: float
) -> Run:
    """Wait until rank 0 has begun a run, and return the run to write.

    What identifies the run, such as its creation time, is taken from its records, so that it is the
    same in those of all ranks.

    Args:
        sink: The sink.
        spec: What the run must be.
        share: Which of its records are written here.
        run_id: The run.
        timeout_s: How long to wait, in seconds.

    Raises:
        ConfigurationError: The ranks cannot share the run's partitions.
        SinkExists: The run was begun with other arguments.
        TransportError: Brokers or registry failed.
        WaitTimeout: It was not begun in time.
    """
    wait = Wait(
        f"rank 0 to begin run {run_id} in {sink.name}, where rank {share.rank} has rows to write",
        timeout_s=timeout_s,
        log=log,
        hint="is rank 0 running, and was it given the same run_id?",
    )
    while (tail := sink.look_again(run_id)) is None:
        wait.tick()
        time.sleep(_LOOK_S)
    spec.check_continues(tail, sink.name, holds_runs=sink.holds_runs)
    share.check_partitions(sink.partitions, sink.name)
    return Run(spec, share.own_tail(tail), _traits(sink, share))


def _traits(sink: Sink, share: RecordShare) -> SinkTraits:
    return SinkTraits(
        name=sink.name,
        partitions=sink.partitions,
        target_record_bytes=sink.target_record_bytes,
        max_record_bytes=sink.max_record_bytes,
        linger_s=sink.linger_s,
        share=share,
    )


class RecordWriter:
    """Gives a run's records to its sink, which it opens as soon as R is chosen."""

    def __init__(self, sink: Sink, run: Run) -> None:
        self._sink = sink
        self._run = run
        self._codec: Codec | None = None

    def open(self) -> None:
        """Open the sink once the run's R is chosen. May be called at any time."""
        stream, description = self._run.stream, self._run.promised
        if self._codec is not None or stream is None or description is None:
            return
        self._sink.open(stream, description)
        self._codec = Codec(description)
        log.info(
            "%s: %s, %d rows per record, %d partitions",
            self._sink.name,
            stream,
            stream.rows_per_record,
            stream.partitions,
        )

    def encode(self, parts: RecordParts) -> PackedRecord:
        """Encode and pack a record. May be called from several threads at once."""
        assert self._codec is not None, "the sink is opened before a record is encoded"
        began = time.perf_counter()
        encoded = self._codec.encode(parts.head, parts.columns)
        packed = self._sink.pack(encoded)
        return PackedRecord(
            head=parts.head,
            packed=packed,
            nbytes=encoded.nbytes,
            seconds=time.perf_counter() - began,
        )

    def write(self, record: PackedRecord) -> None:
        """Write an encoded record. Must be called in the order of the records.

        Raises:
            TransportError: This record, or an earlier one, could not be kept.
        """
        began = time.perf_counter()
        self._sink.write(record.head, record.packed)
        self._run.count_written(record, time.perf_counter() - began)

    def poll(self) -> None:
        """Let the sink look after records on their way. Raises if one could not be kept."""
        if self._codec is not None:
            self._sink.poll()

    def release_memory(self) -> None:
        """Wait until nothing refers to the caller's memory; rows that wait are copied."""
        if self._codec is not None:
            self._sink.settle()
        self._run.own_waiting_rows()
