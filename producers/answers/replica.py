"""One replica of a teacher: reads the queries of the partitions that it owns, and answers them.

One thread reads, takes part in rebalances and writes; the model has a thread of its own per device.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from tutelage.producers.answers.inputs import model_batch, row_numbers
from tutelage.producers.answers.owned import OwnedQueries
from tutelage.producers.answers.pool import QueryPool
from tutelage.producers.answers.progress import Backoff, Progress, ReplicaStats
from tutelage.producers.answers.query import Query
from tutelage.producers.answers.settings import AnswerSettings
from tutelage.producers.answers.topic import AnswerTopic
from tutelage.producers.stages.devices import Devices, Forwarded
from tutelage.producers.stages.encode_vectors import encode_vectors
from tutelage.producers.stages.host_batch import HostBatch
from tutelage.producers.stages.places import Place
from tutelage.producers.stages.transfer import start_transfers
from tutelage.producers.wire_options import WireOptions
from tutelage.schemas.errors import SchemaError
from tutelage.schemas.queries import QUERY_ID
from tutelage.schemas.record import Column, Ragged
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.group_reader import GroupReader
from tutelage.transport.partition_reader import Message
from tutelage.transport.rate_limit import RateLimit
from tutelage.transport.runs import FoundRun
from tutelage.transport.status import Status

log = logging.getLogger(__name__)

# Between looks at whether a call of the model is done; and while there is nothing to do.
_BUSY_POLL_S, _IDLE_POLL_S = 0.001, 0.05
_MESSAGES_AT_ONCE = 64
# Queries that wait in memory: beyond this nothing more is fetched.
_MOST_WAITING_BYTES = 64 << 20
_COMMIT_EVERY_S = 1.0
# How often a replica looks for the run's first answer, while it has answers of its own to write.
_LOOK_EVERY_S = 0.25
# How often a replica without work looks whether the run has all of its answers, at first and later.
_ASK_S, _MOST_ASK_S = 0.2, 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Call:
    """A call of the model: its queries, and what it gives."""

    queries: Sequence[Query]
    future: Future[Forwarded] = field(repr=False)

    def batches(self) -> Sequence[HostBatch]:
        """What the model returned: one batch, or none for an end.

        Raises:
            SchemaError: It has other rows than the queries.
        """
        batches = self.future.result().batches
        rows = sum(query.head.rows for query in self.queries)
        for batch in batches:
            if batch.rows != rows:
                raise SchemaError(
                    f"the model returned {batch.rows} rows for {rows} rows of queries; it must "
                    "return one row for each, in their order"
                )
        return batches


class Replica:
    """Answers the queries of one run until all have an answer, or a newer run has begun.

    Guarantee: in each partition it writes consecutive answers, beginning with the first that the
    partition lacks, or had when it was read. Two replicas that own a partition for a while write
    the same records twice, which readers drop.

    Args:
        connection: How the cluster is reached.
        queries: The topic of queries.
        found: The run of queries, and one of its messages.
        answers: Where answers go; open.
        devices: The replicas of the model on this machine.
        options: How keys travel.
        settings: The group, the budget and the format of ragged keys.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        queries: str,
        found: FoundRun,
        answers: AnswerTopic,
        devices: Devices,
        options: WireOptions,
        settings: AnswerSettings,
    ) -> None:
        self._answers = answers
        self._devices = devices
        self._options = options
        self._settings = settings
        self._queries = OwnedQueries(connection, queries, found, answers, settings.limits)
        self._pool = QueryPool(settings.budget)
        self._calls: deque[_Call] = deque()
        self._progress = Progress()
        self._commit_due, self._ask_due = RateLimit(_COMMIT_EVERY_S), RateLimit(_LOOK_EVERY_S)
        self._asking = Backoff(_ASK_S, _MOST_ASK_S)
        # The query whose answer, the first of the run, was written before its call's turn.
        self._written_first: Query | None = None
        self.stats = ReplicaStats()
        self.doing = Status("joining the group")
        answers.on_written(self._progress.written)
        self._reader = GroupReader(
            connection, queries, settings.group, begin_at=self._queries.begin_at, gone=self._gone
        )

    def run(self, progress: Callable[[Replica], None]) -> None:
        """Answer queries until every one of the run has an answer.

        If no run was named, also until a newer run has begun: `is_left` then.

        Args:
            progress: Called with the replica whenever it has written answers.

        Raises:
            SequenceGap: The topic of queries has lost records.
            SchemaError: The model returned other rows than it got, or no knowledge.
            TransportError: The brokers or the registry failed.
            Exception: What the model raised.
        """
        while self._settings.run is not None or not self._queries.followed:
            busy = bool(self._calls) or len(self._pool) > 0
            self._accept(self._reader.take(_MESSAGES_AT_ONCE, self._poll_s(busy)))
            self._start_calls()
            answered = self.stats.queries
            self._write_done()
            if self.stats.queries != answered:
                progress(self)
            self._answers.poll()
            self._queries.look()
            if self._commit_due.due():
                self._reader.commit(self._progress.offsets())
            # The run's first query must come, however many others wait for its answer.
            waiting = self._pool.nbytes if self._answers.description is not None else 0
            self._reader.pause(waiting > _MOST_WAITING_BYTES)
            self._describe()
            if not busy and self._is_all_answered():
                break
        self._answers.flush()
        self._reader.commit(self._progress.offsets())

    @property
    def is_left(self) -> bool:
        """Whether a newer run of queries has begun, so that this one was left."""
        return self._settings.run is None and self._queries.followed

    @property
    def waiting(self) -> tuple[int, float]:
        """Queries that wait for the model, and how long the oldest has, in seconds. Safe in any
        thread."""
        return len(self._pool), self._pool.oldest_s(time.monotonic())

    @property
    def owned(self) -> frozenset[int]:
        """The partitions that the group has given this replica. Safe in any thread."""
        return self._reader.owned

    @property
    def rebalances(self) -> int:
        """How often the group has given or taken partitions."""
        return self._reader.rebalances

    def close(self) -> None:
        """Leave the group. Answers that are not written yet are the next owner's to write."""
        self._reader.close()

    def _poll_s(self, busy: bool) -> float:
        return _BUSY_POLL_S if busy or self._answers.in_flight else _IDLE_POLL_S

    def _gone(self, partitions: Sequence[int], lost: bool) -> None:
        """Drop what is not written of partitions that are another replica's now."""
        self._pool.drop(frozenset(partitions))
        self._queries.forget(partitions)
        if not lost:
            # The next owner reads the partition's end: what was sent should be there by then.
            self._answers.flush()
        for partition in partitions:
            self._progress.forget(partition)

    def _accept(self, messages: Sequence[Message]) -> None:
        now, rewound = time.monotonic(), set[int]()
        for message in messages:
            partition = message.partition() or 0
            if partition in rewound:
                continue
            found = self._queries.take(message)
            if isinstance(found, int):
                self._reader.seek(partition, found)
                rewound.add(partition)
            elif found is not None:
                self._pool.add(found, now)
        self.stats.dropped = self._queries.dropped

    def _start_calls(self) -> None:
        """Give the model as many calls as keep its devices busy."""
        while self._has_room():
            queries = self._pool.take(time.monotonic())
            if not queries:
                return
            self._calls.append(_Call(queries=queries, future=self._called(queries)))

    def _has_room(self) -> bool:
        """Whether another call may begin: a device is free, or a full call can wait for one."""
        first = self._pool.first
        if first is not None and self._begins_the_run(first):
            # No other answer can be written before its own, however many wait.
            return True
        devices = len(self._devices)
        calls = [call for call in self._calls if call.queries[0].head.end is None]
        running = sum(not call.future.done() for call in calls)
        # While every device is busy, more queries may join the next call at no cost.
        full = self._pool.rows >= self._settings.budget.rows
        return len(calls) <= 2 * devices and (running < devices or (running == devices and full))

    def _called(self, queries: Sequence[Query]) -> Future[Forwarded]:
        if queries[0].head.end is not None:
            done: Future[Forwarded] = Future()
            done.set_result(Forwarded(batches=[], input_rows=[], seconds=0.0))
            return done
        stream = self._queries.stream
        batch = model_batch(
            queries,
            self._queries.description,
            pad_value=self._settings.pad_value,
            pad_left=self._settings.pad_left,
        )
        place = Place(
            stream=f"{self._answers.stream.teacher}\0{stream.run_id}",
            pass_index=queries[0].head.pass_index,
            batch=queries[0].head.sequence,
            numbers=row_numbers(queries, stream.rows_per_record),
        )
        self.stats.calls += 1
        return self._devices.submit(
            [batch],
            self._transfer,
            encode=lambda _, knowledge: self._encode(knowledge, batch, place),
            owning=True,
        )

    def _encode(self, knowledge: Any, batch: dict[str, torch.Tensor], place: Place) -> Any:
        """Add the ids of the queries to what the model returned, and encode its vectors."""
        if isinstance(knowledge, Mapping) and QUERY_ID in batch:
            knowledge = {**knowledge, QUERY_ID: batch[QUERY_ID]}
        return encode_vectors(knowledge, self._options, self._answers.description, place)

    def _transfer(self, group: list[Any], cuda_stream: Any) -> list[HostBatch]:
        return start_transfers(group, self._options, self._answers.description, cuda_stream)

    def _write_done(self) -> None:
        """Write the answers of calls that are done, in the order of the calls."""
        if self._answers.description is None and not self._describe_answers():
            return
        while self._calls and self._calls[0].future.done():
            call = self._calls.popleft()
            self.stats.forward_s += call.future.result().seconds
            self._write(call.queries, call.batches())

    def _describe_answers(self) -> bool:
        """Find out what answers hold: the first answer of the run says it, whoever writes it.

        So replicas of different models, which all start at once, do not mix: all but one find an
        answer that is not theirs.

        Returns:
            Whether it is known now.
        """
        # The pool puts the run's first query first in its call.
        mine = next((call for call in self._calls if self._begins_the_run(call.queries[0])), None)
        if mine is not None and mine.future.done():
            self._write(mine.queries[:1], mine.batches())
            self._written_first = mine.queries[0]
        elif mine is None and self._calls and self._ask_due.due():
            self._answers.missing([0])
        return self._answers.description is not None

    def _begins_the_run(self, query: Query) -> bool:
        head = query.head
        is_first = head.pass_index == head.sequence == 0 and head.end is None
        return is_first and self._queries.owns(query)

    def _write(self, queries: Sequence[Query], batches: Sequence[HostBatch]) -> None:
        batch = batches[0] if batches else None
        columns = batch.columns() if batch is not None else {}
        first = 0
        for query in queries:
            stop = first + query.head.rows
            if not self._queries.owns(query):
                self.stats.discarded += 1
            elif query is not self._written_first:
                self.stats.nbytes += self._answers.write(
                    query.partition,
                    replace(query.head, generation=0),
                    {key: [_part(column, first, stop)] for key, column in columns.items()},
                    batch.description if batch is not None else None,
                )
                self._progress.sent(query.partition, query.offset + 1)
                self.stats.queries += query.head.end is None
                self.stats.rows += query.head.rows
            first = stop

    def _is_all_answered(self) -> bool:
        """Whether no query of the run is left, whoever owns its partition."""
        # While others work there is no hurry, and each look reads some of their answers.
        return (
            not self._answers.in_flight
            and self._queries.ended
            and self._asking.due()
            and self._answers.is_complete()
        )

    def _describe(self) -> None:
        if self._calls:
            what = "answering"
        elif self._reader.owned:
            what = "waiting for queries"
        else:
            what = "waiting for the group to give it partitions"
        if self.doing.activity.doing != what:
            self.doing.now(what, beats=bool(self._calls))
        if self._calls:
            self.doing.beat()


def _part(column: Column, first: int, stop: int) -> Column:
    return column.rows(first, stop) if isinstance(column, Ragged) else column[first:stop]
