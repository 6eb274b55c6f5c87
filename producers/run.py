"""One run: its rows per record (R), the order of its records, and what was written of it.

Columns on the host enter in the order of the inputs; the parts of each record leave. No I/O and no
threads: `writer.py` gives the records to a sink.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

from tutelage.producers.run_spec import RunSpec
from tutelage.producers.sink_traits import SinkTraits
from tutelage.producers.stages.columns import copied, nbytes_of
from tutelage.producers.stages.encode import PackedRecord, RecordParts
from tutelage.producers.stages.gather import Gather, RecordRows
from tutelage.schemas.errors import ConfigurationError, DescriptionChanged
from tutelage.schemas.record import Column, Description, End, RecordHead, Stream
from tutelage.schemas.tail import Tail
from tutelage.transport.status import Status


@dataclass(kw_only=True, slots=True)
class TeacherStats:
    """Where a teacher's time went, in seconds, summed over all devices and threads.

    Each number is updated by one thread only.

    Args:
        input_wait_s: Waiting for the inputs.
        forward_s: The model.
        encode_s: Encoding and packing.
        write_s: The sink's `write`.
    """

    input_wait_s: float = 0.0
    forward_s: float = 0.0
    encode_s: float = 0.0
    write_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class NewRun:
    """A run that the sink holds nothing of.

    Args:
        run_id: Its name.
        created_after: Its creation time lies behind this, in seconds since the epoch.
    """

    run_id: str
    created_after: float = 0.0


class _Opening:
    """The first rows of a run, kept until R is chosen from them."""

    def __init__(self) -> None:
        self.batches: list[tuple[Mapping[str, Column], int]] = []
        self.rows = 0
        self.nbytes = 0
        self._began_s = 0.0
        self._owned = 0

    @property
    def waited_s(self) -> float:
        """Seconds since the first rows came."""
        return time.monotonic() - self._began_s

    def add(self, columns: Mapping[str, Column], rows: int) -> None:
        """Keep a batch."""
        if not self.batches:
            self._began_s = time.monotonic()
        self.batches.append((columns, rows))
        self.rows += rows
        self.nbytes += sum(nbytes_of(column) for column in columns.values())

    def own(self) -> None:
        """Copy the batches that were added since the last call."""
        for index in range(self._owned, len(self.batches)):
            columns, rows = self.batches[index]
            self.batches[index] = ({key: copied(column) for key, column in columns.items()}, rows)
        self._owned = len(self.batches)


class Run:
    """Turns the passes of a run into records, and counts what was written.

    Guarantee: the records do not depend on batch sizes or restarts, and records that the sink
    already holds are not made again.

    Args:
        spec: What the user asked for.
        start: What the sink holds of the run, or that it is new; in the numbers of this writer.
        sink: What its records depend on in the sink.
    """

    def __init__(self, spec: RunSpec, start: Tail | NewRun, sink: SinkTraits) -> None:
        self._spec = spec
        self._start = start
        self._traits = sink
        run_id = start.stream.run_id if isinstance(start, Tail) else start.run_id
        #: What tells the run from all others; a run id is unique in its topic only.
        self.name = f"{spec.teacher}\0{run_id}"
        tail = self._tail
        self._opening = _Opening()
        self._gather: Gather | None = None
        #: The run as its headers say it; None while R is not chosen.
        self.stream: Stream | None = None
        self.description: Description | None = None
        self.pass_index = tail.pass_index if tail is not None else 0
        self.generation = tail.generation + 1 if tail is not None else 0
        self.records_written = self.rows_written = self.bytes_written = 0
        self.stats = TeacherStats()
        self.doing = Status("connected")
        self.doing.now("connected; nothing to teach yet")

    @property
    def _tail(self) -> Tail | None:
        """What the sink holds of the run; None if the run is new."""
        return self._start if isinstance(self._start, Tail) else None

    @property
    def is_new(self) -> bool:
        """Whether the sink held nothing of the run."""
        return self._tail is None

    @property
    def complete(self) -> bool:
        """Whether all passes were made into records."""
        return self.pass_index >= self._spec.passes

    @property
    def promised(self) -> Description | None:
        """The description that every batch must match, once it is known."""
        return self.description or (self._tail.description if self._tail is not None else None)

    @property
    def skip_rows(self) -> int:
        """How many rows at the start of this pass the sink already holds."""
        if self._gather is not None:
            return self._gather.skipping
        tail = self._tail
        return 0 if tail is None or self.pass_index != tail.pass_index else self.held_rows

    @property
    def held_rows(self) -> int:
        """How many rows the sink holds of its last pass."""
        if (tail := self._tail) is None:
            return 0
        # Where some partition has the end, others may lack nothing but theirs.
        most = tail.last.end.rows if tail.last is not None and tail.last.end is not None else None
        held = tail.sequence * tail.stream.rows_per_record
        return most if most is not None and (tail.complete or most < held) else held

    @property
    def is_undecided(self) -> bool:
        """Whether rows have come but R is not chosen. `decide` chooses it."""
        return self.stream is None and bool(self._opening.batches)

    @property
    def is_due(self) -> bool:
        """Whether enough bytes came, or enough time has passed, to choose R."""
        linger_s = self._traits.linger_s
        return self._opening.nbytes >= self._traits.target_record_bytes or (
            linger_s is not None and self._opening.waited_s >= linger_s
        )

    @property
    def rows_waiting(self) -> int:
        """How many rows wait for a record to be full."""
        waiting = self._gather.waiting if self._gather is not None else 0
        return self._opening.rows + waiting

    @property
    def rows_per_record(self) -> int | None:
        """R, or None while it is not chosen."""
        return self.stream.rows_per_record if self.stream is not None else None

    def add(
        self, columns: Mapping[str, Column], rows: int, description: Description
    ) -> list[RecordParts]:
        """Add a batch, and return the records that it completes.

        Raises:
            DescriptionChanged: Its keys, dtypes or row shapes are not those of earlier batches.
            LengthMismatch: A continued pass has other rows than before.
        """
        if self.description is None:
            self._describe(description)
        elif description is not self.description and set(description.specs) != set(
            self.description.specs
        ):
            # A batch in flight when the first one was described was not compared with it.
            raise DescriptionChanged(
                f"a batch holds {description}, earlier ones {self.description}; every batch holds "
                "the same keys"
            )
        if not rows:
            return []
        if self.stream is None:
            self._opening.add(columns, rows)
            if self._tail is not None or self._spec.rows_per_record is not None or self.is_due:
                return self.decide()
            return []
        gather = self._gathering()
        records = gather.add(columns, rows)
        self._check_length(gather.rows, ended=False)
        return self._with_heads(records)

    def decide(self, *, at_once: bool = False) -> list[RecordParts]:
        """Choose R from the rows that have come, and return the records that are full.

        Args:
            at_once: Choose R so small that these rows fill a record.
        """
        if self.stream is None:
            self.stream = self._tail.stream if self._tail is not None else self._new_stream(at_once)
        opening, self._opening = self._opening, _Opening()
        gather = self._gathering()
        return self._with_heads(
            [record for columns, rows in opening.batches for record in gather.add(columns, rows)]
        )

    def pass_over(self, rows: int) -> None:
        """Count rows of this pass that are not computed, because the sink holds them."""
        if rows:
            assert self._tail is not None, "rows are passed over only where a tail was found"
            self.stream = self._tail.stream
            self._gathering().pass_over(rows)

    def end_pass(self) -> list[RecordParts]:
        """End the pass, and return its last records: its remaining rows and the end record.

        Raises:
            ConfigurationError: The pass had no rows.
            LengthMismatch: A continued pass has another number of rows than before.
        """
        records = self.decide() if self._opening.batches else []
        gather = self._gather
        if gather is None or not gather.rows:
            again = f"pass {self.pass_index} of {self._spec.passes}: " if self.pass_index else ""
            raise ConfigurationError(
                f"{again}the inputs gave no rows; there is nothing to write to {self._traits.name}"
            )
        records += self._with_heads(gather.finish())
        self._check_length(gather.rows, ended=True)
        count = -(-gather.rows // self._decided().rows_per_record)
        end = self._traits.share.end_of_all(End(records=count, rows=gather.rows))
        records.append(RecordParts(head=self._head(end.records, 0, end), columns={}))
        self._gather = None
        self.pass_index += 1
        return records

    def count_written(self, record: PackedRecord, write_s: float) -> None:
        """Count a record that was written in so many seconds."""
        self.records_written += record.head.end is None
        self.rows_written += record.head.rows
        self.bytes_written += record.nbytes
        self.stats.encode_s += record.seconds
        self.stats.write_s += write_s

    def own_waiting_rows(self) -> None:
        """Copy the rows that wait for a record to fill: the caller may change their memory."""
        if self._gather is not None:
            self._gather.own_pending()
        self._opening.own()

    def _check_length(self, rows: int, *, ended: bool) -> None:
        if self._tail is not None and self.pass_index == self._tail.pass_index:
            self._tail.check_row_count(rows, self._traits.name, ended=ended)

    def _describe(self, description: Description) -> None:
        if self._tail is not None and description != self._tail.description:
            raise DescriptionChanged(
                f"{self._traits.name} holds the beginning of {self._tail.stream} with "
                f"{self._tail.description}; the teacher now gives {description}. Write elsewhere, "
                "or make it as it was"
            )
        self.description = description

    def _new_stream(self, at_once: bool) -> Stream:
        spec, opening, start = self._spec, self._opening, self._start
        assert isinstance(start, NewRun), "a run that the sink holds has its stream"
        return Stream(
            run_id=start.run_id,
            teacher=spec.teacher,
            revision=spec.revision,
            inputs_fingerprint=spec.inputs_fingerprint,
            head=spec.head,
            passes=spec.passes,
            partitions=self._traits.partitions,
            rows_per_record=spec.rows_per_record
            or self._traits.rows_per_record(opening.rows, opening.nbytes, at_once=at_once),
            created=round(max(time.time(), start.created_after + 0.001), 3),
            version=version("tutelage"),
        )

    def _decided(self) -> Stream:
        assert self.stream is not None, "R is chosen before a record is made"
        return self.stream

    def _gathering(self) -> Gather:
        if self._gather is None:
            self._gather = Gather(self._decided().rows_per_record, skip_rows=self.skip_rows)
        return self._gather

    def _head(self, sequence: int, rows: int, end: End | None = None) -> RecordHead:
        return RecordHead(
            run_id=self._decided().run_id,
            pass_index=self.pass_index,
            sequence=sequence,
            rows=rows,
            generation=self.generation,
            end=end,
        )

    def _with_heads(self, records: list[RecordRows]) -> list[RecordParts]:
        return [
            RecordParts(
                head=self._head(self._traits.share.sequence(record.sequence), record.rows),
                columns=record.columns,
            )
            for record in records
        ]
