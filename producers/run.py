"""One run: its identity, its rows per record (R), and the order of its records.

Host columns enter in the order of the inputs; packed records go to a sink. This module knows
nothing of devices, threads or models. The caller chooses the threads that encode.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from tutelage.producers.sinks.base import Sink
from tutelage.producers.stages.columns import copied, nbytes_of
from tutelage.producers.stages.gather import Gather, RecordRows
from tutelage.schemas.codec import Codec
from tutelage.schemas.errors import ConfigurationError, DescriptionChanged, SinkExists
from tutelage.schemas.limits import DEFAULT_LIMITS
from tutelage.schemas.record import Column, Description, End, RecordHead, Stream
from tutelage.schemas.tail import Tail
from tutelage.transport.waiting import Status

log = logging.getLogger(__name__)

# When R is chosen automatically, one record of each partition together has at most this size.
_ROUND_BYTES = 32 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What identifies a run. A restarted teacher must give the same values."""

    teacher: str
    revision: str = ""
    inputs_fingerprint: str = ""
    passes: int = 1
    rows_per_record: int | None = None
    run_id: str | None = None
    new_run: bool = False

    def begins_behind(self, tail: Tail) -> bool:
        """Whether to begin a new run. A named run begins once, and is continued after that."""
        return self.new_run and (self.run_id is None or self.run_id != tail.stream.run_id)

    def refuse_other(self, tail: Tail, sink: Sink) -> None:
        """Raise SinkExists, saying what differs, if the sink holds another run.

        A finished run is refused too, unless `run_id` names it.
        """
        theirs, where = tail.stream, sink.name
        elsewhere = (
            "Begin a new run behind it with new_run=True (--new-run), or write"
            if sink.holds_runs
            else "Write"
        )
        differs = [
            f"{name} {getattr(theirs, name)!r} there, {getattr(self, name)!r} here"
            for name in ("teacher", "revision", "inputs_fingerprint", "passes")
            if getattr(theirs, name) != getattr(self, name)
        ]
        if self.rows_per_record is not None and self.rows_per_record != theirs.rows_per_record:
            differs.append(
                f"{theirs.rows_per_record} rows per record there, {self.rows_per_record} here"
            )
        if self.run_id is not None and self.run_id != theirs.run_id:
            differs.append(f"run_id {theirs.run_id!r} there, {self.run_id!r} here")
        if differs:
            raise SinkExists(
                f"{where} holds another run, {theirs}: {'; '.join(differs)}. {elsewhere} elsewhere"
            )
        if tail.finished and self.run_id is None:
            replaced = (
                "" if sink.holds_runs else ", or replace the file with overwrite=True (--overwrite)"
            )
            raise SinkExists(
                f"{where} exists and holds a finished run, {theirs}. {elsewhere} elsewhere{replaced}"
            )


@dataclass(kw_only=True, slots=True)
class Tally:
    """Where a teacher's time went, in seconds, summed over all devices and threads.

    The parts are: waiting for inputs, the model, encoding and packing, and the sink's `write`.
    Each number is updated by one thread only.
    """

    input_wait_s: float = 0.0
    forward_s: float = 0.0
    encode_s: float = 0.0
    write_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """A packed record for the sink, its size in Avro bytes, and the seconds that encoding took."""

    head: RecordHead
    packed: Any = field(repr=False)
    nbytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A record to encode: its head, and each column in pieces."""

    head: RecordHead
    columns: Mapping[str, list[Column]] = field(repr=False)


class Run:
    """Turns the passes of a run into records.

    Guarantee: the records do not depend on batch sizes or restarts, and records that the sink
    already holds are not made again.
    """

    def __init__(self, sink: Sink, identity: Identity) -> None:
        self._sink = sink
        self._identity = identity
        self._tail = sink.tail()
        self._created_after = 0.0
        if self._tail is not None and identity.begins_behind(self._tail):
            sink.begin_run(identity.run_id)
            log.info("%s holds %s; a new run begins behind it", sink.name, self._tail.stream)
            # Readers find the start of a run by record times, so a new run must be later than all
            # records in the topic, whatever this machine's clock says.
            self._created_after = max(self._tail.newest_s, self._tail.stream.created)
            self._tail = None
        self._run_id = (
            self._tail.stream.run_id
            if self._tail is not None
            else identity.run_id or uuid.uuid4().hex
        )
        sink.speak_of(self._run_id)
        self._stream: Stream | None = None
        self._gather: Gather | None = None
        self._opening: list[tuple[Mapping[str, Column], int]] = []
        self._opening_began = 0.0
        self._opening_bytes = 0
        self._opening_owned = 0
        self.description: Description | None = None
        self.codec: Codec | None = None
        self.pass_index = 0
        self.generation = 0
        self.records_written = 0
        self.rows_written = 0
        self.bytes_written = 0
        self.tally = Tally()
        self.doing = Status("connected")
        self.doing.now("connected; nothing to teach yet")
        self._skip_rows = 0
        if self._tail is not None:
            identity.refuse_other(self._tail, sink)
            self.pass_index = self._tail.pass_index
            self.generation = self._tail.generation + 1
            if self._tail.complete and not self._tail.finished:
                # All records are written, but the file was not given its final name yet.
                sink.open(self._tail.stream, self._tail.description)
                sink.finish()
            self._skip_rows = self._tail.sequence * self._tail.stream.rows_per_record
            log.info(
                "%s holds %s up to record %d of pass %d; going on from there",
                sink.name, self._tail.stream, self._tail.sequence, self._tail.pass_index,
            )  # fmt: skip

    @property
    def complete(self) -> bool:
        """Whether the sink holds the complete run."""
        return self.pass_index >= self._identity.passes

    @property
    def promised(self) -> Description | None:
        """The description that every batch must match, once it is known."""
        return self.description or (self._tail.description if self._tail is not None else None)

    @property
    def skip_rows(self) -> int:
        """How many rows at the start of this pass the sink already holds."""
        return self._gather.skipping if self._gather is not None else self._skip_rows

    @property
    def undecided(self) -> bool:
        """Whether rows have arrived but R is not chosen yet. `settle` chooses it at once."""
        return self._stream is None and bool(self._opening)

    def add(self, columns: Mapping[str, Column], rows: int, description: Description) -> list[Work]:
        """Add a batch, and return the records that it completes."""
        if self.description is None:
            self._describe(description)
        elif description is not self.description and set(description.specs) != set(
            self.description.specs
        ):
            # A batch already in flight when the first one was described was not compared with it.
            raise DescriptionChanged(
                f"a batch holds {description}, earlier ones {self.description}; every batch holds the same keys"
            )
        if not rows:
            return []
        if self._stream is None:
            if not self._opening:
                self._opening_began = time.monotonic()
            self._opening.append((columns, rows))
            self._opening_bytes += sum(nbytes_of(column) for column in columns.values())
            if self._tail is not None or self._identity.rows_per_record is not None or self.due:
                return self.settle()
            return []
        gather = self._gathering()
        records = gather.add(columns, rows)
        self._refuse_other_length(gather.rows, ended=False)
        return self._work(records)

    @property
    def due(self) -> bool:
        """Whether enough bytes arrived, or enough time has passed, to choose R."""
        linger_s = self._sink.linger_s
        waited_s = time.monotonic() - self._opening_began
        return self._opening_bytes >= self._sink.target_record_bytes or (
            linger_s is not None and waited_s >= linger_s
        )

    @property
    def rows_waiting(self) -> int:
        """How many rows are waiting for a record to be full."""
        return sum(rows for _, rows in self._opening) + (
            self._gather.waiting if self._gather is not None else 0
        )

    @property
    def rows_per_record(self) -> int | None:
        """R, or None while it is not chosen."""
        return self._stream.rows_per_record if self._stream is not None else None

    def settle(self, *, at_once: bool = False) -> list[Work]:
        """Choose R from the rows that have arrived, open the sink, and return the full records.

        `at_once` keeps R small enough for the rows that have arrived to fill a record.
        """
        if self._stream is None:
            self._open(
                self._tail.stream if self._tail is not None else self._new_stream(at_once=at_once)
            )
        opening, self._opening = self._opening, []
        gather = self._gathering()
        return self._work(
            [record for columns, rows in opening for record in gather.add(columns, rows)]
        )

    def pass_over(self, rows: int) -> None:
        """Count rows of this pass that are skipped because the sink holds them."""
        if rows:
            self._open_resumed()
            self._gathering().pass_over(rows)

    def end_pass(self) -> list[Work]:
        """End the pass, and return its last records: its remaining rows and the end record.

        Raises:
            ConfigurationError: The pass had no rows.
            LengthMismatch: A continued pass has a different number of rows than before.
        """
        work = self.settle() if self._opening else []
        gather = self._gather
        if gather is None or not gather.rows:
            again = (
                f"pass {self.pass_index} of {self._identity.passes}: " if self.pass_index else ""
            )
            raise ConfigurationError(
                f"{again}the inputs gave no rows; there is nothing to write to {self._sink.name}"
            )
        work += self._work(gather.finish())
        self._refuse_other_length(gather.rows, ended=True)
        records = -(-gather.rows // self._settled().rows_per_record)
        end = End(records=records, rows=gather.rows)
        work.append(Work(head=self._head(records, 0, end), columns={}))
        self._gather = None
        self._skip_rows = 0
        self.pass_index += 1
        return work

    def encode(self, work: Work) -> Packed:
        """Encode and pack a record. May be called from several threads at once."""
        assert self.codec is not None, "a record is made only after the description is known"
        began = time.perf_counter()
        encoded = self.codec.encode(work.head, work.columns)
        packed = self._sink.pack(encoded)
        return Packed(
            head=work.head,
            packed=packed,
            nbytes=encoded.nbytes,
            seconds=time.perf_counter() - began,
        )

    def write(self, record: Packed) -> None:
        """Give an encoded record to the sink. Must be called in the order of the records."""
        began = time.perf_counter()
        self._sink.write(record.head, record.packed)
        self.records_written += record.head.end is None
        self.rows_written += record.head.rows
        self.bytes_written += record.nbytes
        self.tally.encode_s += record.seconds
        self.tally.write_s += time.perf_counter() - began

    def poll(self) -> None:
        """Let the sink process pending deliveries. Raises if a delivery failed."""
        if self._stream is not None:
            self._sink.poll()

    def let_go(self) -> None:
        """Drop all references to the caller's memory, which may change: waiting rows are copied."""
        if self._stream is not None:
            self._sink.settle()
        if self._gather is not None:
            self._gather.own_pending()
        for index in range(self._opening_owned, len(self._opening)):
            columns, rows = self._opening[index]
            self._opening[index] = ({key: copied(column) for key, column in columns.items()}, rows)
        self._opening_owned = len(self._opening)

    def _refuse_other_length(self, rows: int, *, ended: bool) -> None:
        if self._tail is not None and self.pass_index == self._tail.pass_index:
            self._tail.check_row_count(rows, self._sink.name, ended=ended)

    def _describe(self, description: Description) -> None:
        if self._tail is not None and description != self._tail.description:
            raise DescriptionChanged(
                f"{self._sink.name} holds the beginning of {self._tail.stream} with {self._tail.description}; the teacher now gives "
                f"{description}. Write elsewhere, or make it as it was"
            )
        self.description = description
        self.codec = Codec(description)

    def _new_stream(self, *, at_once: bool = False) -> Stream:
        identity = self._identity
        return Stream(
            run_id=self._run_id,
            teacher=identity.teacher,
            revision=identity.revision,
            inputs_fingerprint=identity.inputs_fingerprint,
            passes=identity.passes,
            partitions=self._sink.partitions,
            rows_per_record=identity.rows_per_record or self._chosen_rows(at_once=at_once),
            created=round(max(time.time(), self._created_after + 0.001), 3),
            version=version("tutelage"),
        )

    def _chosen_rows(self, *, at_once: bool) -> int:
        rows = sum(count for _, count in self._opening)
        # A student holds a record of each partition while it puts them in order.
        target = min(self._sink.target_record_bytes, _ROUND_BYTES // self._sink.partitions)
        if self._sink.max_record_bytes is not None:
            # Ragged rows differ in size, so leave room for longer rows in later records.
            target = min(target, self._sink.max_record_bytes // 4)
        # Rows of zero bytes give no size to divide by: use the most that readers accept.
        by_size = (
            max(1, target * rows // self._opening_bytes)
            if self._opening_bytes
            else DEFAULT_LIMITS.empty_rows
        )
        return min(by_size, rows) if at_once or self._sink.linger_s is not None else by_size

    def _open_resumed(self) -> None:
        if self._stream is None:
            assert self._tail is not None, "rows are passed over only where a tail was found"
            self._open(self._tail.stream)

    def _open(self, stream: Stream) -> None:
        description = self.promised
        assert description is not None, "a run is opened when its first batch is there"
        self._sink.open(stream, description)
        self._stream = stream
        log.info(
            "%s: %s, %d rows per record, %d partitions",
            self._sink.name,
            stream,
            stream.rows_per_record,
            stream.partitions,
        )

    def _settled(self) -> Stream:
        assert self._stream is not None, "settle comes first"
        return self._stream

    def _gathering(self) -> Gather:
        if self._gather is None:
            self._gather = Gather(self._settled().rows_per_record, skip_rows=self._skip_rows)
        return self._gather

    def _head(self, sequence: int, rows: int, end: End | None = None) -> RecordHead:
        return RecordHead(
            run_id=self._settled().run_id,
            pass_index=self.pass_index,
            sequence=sequence,
            rows=rows,
            generation=self.generation,
            end=end,
        )

    def _work(self, records: list[RecordRows]) -> list[Work]:
        return [
            Work(head=self._head(record.sequence, record.rows), columns=record.columns)
            for record in records
        ]
