"""A student's queries -> a topic, from which replicas of a teacher take them.

Each rank of a student writes the queries of partitions of its own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
import xxhash

from tutelage.consumers.shard import Shard, ShardArgument, check_shard, found_shard
from tutelage.on_policy.agreed_run import agreed_run
from tutelage.producers.batch_writer import BatchWriter
from tutelage.producers.record_share import RecordShare
from tutelage.producers.run import Run
from tutelage.producers.run_spec import RunSpec
from tutelage.producers.sinks.base import Sink
from tutelage.producers.sinks.kafka import KafkaSink
from tutelage.producers.stages.transfer import start_transfer
from tutelage.producers.wire_options import wire_options
from tutelage.producers.writer import RecordWriter, await_begun, begin_or_continue
from tutelage.schemas.arguments import (
    check_flag,
    check_seconds,
    check_text,
    check_whole_number,
)
from tutelage.schemas.errors import ConfigurationError
from tutelage.schemas.queries import QUERY_ID
from tutelage.schemas.record import Array, Column, Ragged

# Between looks at whether the brokers have every query.
_POLL_S = 0.001


class QueryWriter:
    """Writes what a student asks of its teacher: one run of one pass. Use it in a `with` block.

    Guarantee: the queries in the topic are the first rows that were written, in order, after any
    number of restarts. Rows that the topic holds are never written anew: a restarted program asks
    `rows` how many there are, and goes on behind them.

    Of several ranks (`shard`), each writes records of its own, which are those that a student with
    the same shard reads: with W ranks record s is of rank s mod W. Their partitions are its own, so
    W must divide the number of partitions. All ranks write one run, which rank 0 begins, and each
    writes as many rows as the others. `write` and `rows` are of the rank's own rows.

    Args:
        sink: The topic of queries, such as `KafkaSink("teacher1.queries", partitions=8)`. Its
            partitions are those of the answers, and the most replicas that can work at once.
        rows_per_record: Rows of one query record. Each `write` takes a multiple of it.
        name: Who asks.
        inputs_fingerprint: A text that stands for the tokenizer, and for what prompts are of. A
            teacher that was given another refuses the queries.
        ragged_keys: As for `Teacher`.
        run_id: As for `Teacher`. Several ranks need it, the same on all, unless torch's process
            group is of the same ranks: then rank 0 tells the others its run.
        new_run: As for `Teacher`.
        shard: Which rank of a training program writes: as for `Student`.
        timeout_s: How long another rank waits for the first rows of rank 0, in seconds.

    Raises:
        ConfigurationError: An argument has the wrong type or value.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        rows_per_record: int,
        name: str = "student",
        inputs_fingerprint: str = "",
        ragged_keys: Any = (),
        run_id: str | None = None,
        new_run: bool = False,
        shard: ShardArgument = None,
        timeout_s: float = 600.0,
    ) -> None:
        if not isinstance(sink, Sink):
            raise ConfigurationError(
                f"sink is a {type(sink).__name__}; give a KafkaSink or another Sink"
            )
        self._sink = sink
        self._options = wire_options("", ragged_keys)
        self._size = check_whole_number("rows_per_record", rows_per_record)
        self._spec = RunSpec(
            teacher=check_text("name", name),
            inputs_fingerprint=check_text("inputs_fingerprint", inputs_fingerprint, empty=True),
            rows_per_record=self._size,
            run_id=None if run_id is None else check_text("run_id", run_id),
            new_run=check_flag("new_run", new_run),
            reopens=True,
        )
        if isinstance(sink, KafkaSink) and sink.settings.transactional:
            raise ConfigurationError(
                "queries are answered as soon as they are written, and a transaction would hide them; "
                "leave out transactional=True"
            )
        self._shard = check_shard(shard)
        self._timeout_s = check_seconds("timeout_s", timeout_s)
        self._batches: BatchWriter | None = None
        # Whether another rank begins the run, and has not been seen to.
        self._awaits_run = False
        self._rows = 0
        self._run_id = ""
        self._ended = False

    def __repr__(self) -> str:
        state = "not started" if self._batches is None else f"{self._rows} rows"
        shard = self.shard
        rank = f"rank {shard.rank} of {shard.ranks}, " if shard.ranks > 1 else ""
        return f"QueryWriter(to {self._sink!r}, {rank}{state})"

    def __enter__(self) -> QueryWriter:
        if self._batches is None:
            self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def rows(self) -> int:
        """How many rows the topic holds, or will hold once what was written is acknowledged.

        Of several ranks, those of this one.
        """
        self._writing()
        return self._rows

    @property
    def shard(self) -> Shard:
        """Which rank of how many this writer is; rank 0 of 1 if it was given no `shard`.

        Raises:
            ConfigurationError: It is `"auto"`, and the environment names no rank of some.
        """
        return found_shard(self._shard)

    @property
    def topic(self) -> str:
        """Where queries are written."""
        return self._sink.label

    @property
    def rows_per_record(self) -> int:
        """Rows of one query record."""
        return self._size

    @property
    def run_id(self) -> str:
        """The id of the run of queries. Their answers are a run with the same id."""
        self._writing()
        return self._run_id

    @property
    def ended(self) -> bool:
        """Whether the run has its end in the partitions of this rank, so that nothing can be added."""
        self._writing()
        return self._ended

    def start(self) -> None:
        """Connect to the topic, and look at what it holds.

        Of several ranks without `run_id`, all call it: they wait for one another.

        Raises:
            ConfigurationError: It was started already; the ranks cannot share the partitions, or
                have no `run_id` and no process group.
            SinkExists: The topic holds another run.
            TransportError: Brokers or registry failed.
        """
        if self._batches is not None:
            raise ConfigurationError("these queries were started already")
        try:
            run = self._begun_run()
            self._run_id = _id_of(run)
            self._awaits_run = self.shard.rank > 0 and run.is_new
            self._ended = run.complete
            if run.complete:
                self._rows = run.held_rows
            elif run.skip_rows:
                self._rows = run.skip_rows
                run.pass_over(run.skip_rows)
            self._write_to(run)
        except BaseException:
            self._sink.close()
            raise

    def _begun_run(self) -> Run:
        """The run to write, which is the same on all ranks."""
        share = self._share
        if share.ranks == 1:
            return begin_or_continue(self._sink, self._spec)
        self._sink.share_with(share)
        if self._spec.run_id is not None:
            return begin_or_continue(self._sink, self._spec, share)
        begun: list[Run] = []

        def begin() -> str:
            begun.append(begin_or_continue(self._sink, self._spec, share))
            return _id_of(begun[0])

        self._spec = replace(self._spec, run_id=agreed_run(self.shard, begin))
        return begun[0] if begun else begin_or_continue(self._sink, self._spec, share)

    @property
    def _share(self) -> RecordShare:
        return RecordShare(rank=self.shard.rank, ranks=self.shard.ranks)

    def _write_to(self, run: Run) -> None:
        writer = RecordWriter(self._sink, run)
        self._batches = BatchWriter(run, writer, self._sink, self._options, 1)

    def write(self, rows: Mapping[str, Any]) -> None:
        """Write the next rows. Returns before the brokers have them.

        Args:
            rows: Key -> tensor or array `[rows, ...]`, or for a ragged key a list of one tensor a
                row. Their number must be a multiple of `rows_per_record`.

        Raises:
            ConfigurationError: The number of rows, or the writer is not started, or has ended.
            SchemaError: Other keys, dtypes or row shapes than before, or than another rank's.
            SinkExists: Rank 0 has begun the run with other arguments.
            TransportError: An earlier query could not be written.
            WaitTimeout: Rank 0 has not begun the run in time.
        """
        self._writing()
        if self._ended:
            raise ConfigurationError(f"{self._sink.name}: the run of queries has ended")
        if QUERY_ID in rows:
            raise ConfigurationError(f"the key {QUERY_ID!r} is made here; give the others")
        batch = start_transfer(rows, self._options)
        if not batch.rows or batch.rows % self._size:
            raise ConfigurationError(
                f"{batch.rows} rows were given, but a record has {self._size}: rows that wait for "
                "others would never be answered; write a multiple"
            )
        if self._awaits_run:
            self._write_to(
                await_begun(self._sink, self._spec, self._share, self._run_id, self._timeout_s)
            )
            self._awaits_run = False
        self._writing().write(
            {**rows, QUERY_ID: row_ids(batch.columns(), batch.rows, self._run_id)}
        )
        self._rows += batch.rows

    def check(self) -> None:
        """Raise what writing has run into since the last call. Does not wait.

        Raises:
            ConfigurationError: The writer is not started.
            TransportError: A query could not be written.
            TopicIdentityError: The topic was recreated.
        """
        self._writing().poll()

    def flush(self) -> None:
        """Wait until the brokers have every query that was written.

        Raises:
            ConfigurationError: The writer is not started.
            TransportError: A query could not be written.
            TopicIdentityError: The topic was recreated.
        """
        # The sink raises if nothing is acknowledged for too long.
        while self._sink.queued[0]:
            self.check()
            time.sleep(_POLL_S)

    def end(self) -> None:
        """End the run, and wait until the brokers have every query. Does nothing if it has ended.

        Of several ranks, each ends its own partitions. Their ends say how many rows all ranks have
        written, each as many as this one. If one wrote another number, readers of partitions of
        several ranks raise RunMismatch.

        Raises:
            ConfigurationError: Nothing was written, or the writer is not started.
            TransportError: A query could not be written.
        """
        batches = self._writing()
        if not self._ended:
            batches.end_pass()
            self._ended = True

    def close(self) -> None:
        """Release everything. A run without its end can be continued. May be called twice."""
        self._sink.close()

    def _writing(self) -> BatchWriter:
        if self._batches is None:
            raise ConfigurationError(
                "the queries are not started; use `with QueryWriter(...)` or start()"
            )
        return self._batches


def _id_of(run: Run) -> str:
    return run.name.rpartition("\0")[2]


def row_ids(columns: Mapping[str, Column], rows: int, run_id: str) -> Array:
    """Return a number for the content of each row, int64 `[rows]`: xxh3-64 of its keys and bytes.

    Args:
        columns: Key -> its rows.
        rows: How many there are.
        run_id: Their run: the same rows have other numbers in another.
    """
    ids = np.empty(rows, np.uint64)
    digests = [xxhash.xxh3_64(run_id.encode()) for _ in range(rows)]
    for key in sorted(columns):
        column = columns[key]
        for row, digest in enumerate(digests):
            one = column.rows(row, row + 1).values if isinstance(column, Ragged) else column[row]
            digest.update(f"{key}\0{one.shape}\0".encode())
            digest.update(np.ascontiguousarray(one).tobytes())
    for row, digest in enumerate(digests):
        ids[row] = digest.intdigest()
    return ids.view(np.int64)
