"""One replica of a teacher: reads the queries of the partitions that it owns, and answers them.

One thread reads, takes part in rebalances and writes; the model has a thread of its own per device.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from tutelage.producers.answers.asked import Asked
from tutelage.producers.answers.call_writer import CallWriter
from tutelage.producers.answers.calls import Calls
from tutelage.producers.answers.owned import OwnedQueries
from tutelage.producers.answers.pool import QueryPool
from tutelage.producers.answers.progress import Backoff, Progress, ReplicaStats
from tutelage.producers.answers.query import Query
from tutelage.producers.answers.settings import AnswerSettings
from tutelage.producers.answers.topic import AnswerTopic
from tutelage.producers.stages.devices import Devices
from tutelage.producers.wire_options import WireOptions
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
# How often a replica without work looks whether the run has all of its answers, at first and later.
_ASK_S, _MOST_ASK_S = 0.2, 10.0


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
        self._settings = settings
        self._queries = OwnedQueries(connection, queries, found, answers, settings)
        self._pool = QueryPool(settings.budget, self._queries.attempts.is_suspect)
        asked = (self._queries.stream, self._queries.description)
        self._calls = Calls(devices, options, settings, asked, answers)
        self._progress = Progress()
        self._commit_due = RateLimit(_COMMIT_EVERY_S)
        self._asking = Backoff(_ASK_S, _MOST_ASK_S)
        self.stats = ReplicaStats()
        self._writer = CallWriter(
            self._calls, self._queries, answers, options, self._progress, self.stats
        )
        self.doing = Status("joining the group")
        answers.on_written(self._written)
        self._reader = GroupReader(
            connection, queries, settings.group, begin_at=self._begin_at, gone=self._gone
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
            self._writer.write_done()
            if self.stats.queries != answered:
                progress(self)
            self._answers.poll()
            self._queries.look()
            if self._commit_due.due():
                self._commit()
            is_full = self._pool.nbytes > _MOST_WAITING_BYTES
            # The run's first query must come, however many others wait for its answer.
            self._reader.pause(self._reader.owned - self._queries.first_awaited if is_full else ())
            self._describe()
            if not busy and self._is_all_answered():
                break
        self._answers.finish()
        self._commit(wait=True)

    def _written(self, partition: int) -> None:
        """Note that the brokers have the next answer of a partition."""
        self._progress.written(partition)
        if self._progress.is_written(partition):
            self._queries.attempts.written(partition)

    def _commit(self, *, wait: bool = False) -> None:
        """Tell the group what is answered, and what is begun."""
        attempts = self._queries.attempts
        self._reader.commit(
            {
                partition: attempts.noted(partition) or (offset, attempts.kept(partition))
                for partition, offset in self._progress.offsets().items()
            },
            wait=wait,
        )

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

    def _begin_at(self, notes: Mapping[int, str]) -> Mapping[int, int]:
        """Begin some partitions. Their lag is right from then on, even if nothing is left to answer."""
        offsets = self._queries.begin_at(notes)
        for partition, offset in self._queries.begun.items():
            self._progress.passed(partition, offset)
        return offsets

    def _gone(self, partitions: Sequence[int], lost: bool) -> None:
        """Drop what is not written of partitions that are another replica's now."""
        self._pool.drop(frozenset(partitions))
        if not lost:
            try:
                # The next owner reads the partition's end: what was sent should be there by then.
                self._answers.flush()
            finally:
                # Also if it was not written. Else each replica that cannot write would leave a note
                # that it died of its queries.
                self._commit()
                self._reader.commit(self._queries.attempts.hand_over(partitions), wait=True)
        self._queries.forget(partitions)
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
                self._progress.taken(partition, found.offset + 1)
                self._pool.add(found, now)
            elif partition < self._queries.stream.partitions and not self._queries.followed:
                # It needs no answer. Of a newer run's queries, all do.
                self._progress.passed(partition, (message.offset() or 0) + 1)
        self.stats.dropped = self._queries.dropped

    def _start_calls(self) -> None:
        """Give the model as many calls as keep its devices busy."""
        while self._has_room():
            queries = self._pool.take(time.monotonic())
            if not queries:
                return
            asked, attempts = self._asked(queries), self._queries.attempts
            computed = [each.query for each in asked if each.computed.any()]
            self._reader.commit(attempts.compute(computed), wait=True)
            with attempts.blamed(queries):
                self._calls.start(asked, alone=attempts.is_suspect(queries[0]))
            self.stats.calls, self.stats.tokens = self._calls.started, self._calls.elements

    def _asked(self, queries: Sequence[Query]) -> list[Asked]:
        """Decide which rows of a call's queries the model gets, and what the answers say."""
        ended = self._queries.attempts.ended(queries[0])
        if self._queries.attempts.is_given_up(queries[0]):
            log.error(
                "topic %s: %s is given up: it ended %d replicas",
                self._queries.topic,
                queries[0],
                ended,
            )
            self.stats.given_up += 1
            return [Asked.of(queries[0], self._settings.only).given_up()]
        asked = [Asked.of(query, self._settings.only) for query in queries]
        is_described = self._answers.description is not None or not queries[0].is_first_of_run
        if not (is_described or any(each.computed.any() for each in asked)):
            # Other teachers' rows, but without them what answers hold is not known.
            asked[0] = asked[0].fully_computed()
        return asked

    def _has_room(self) -> bool:
        """Whether another call may begin."""
        first = self._pool.first
        if first is None:
            return False
        # A query that ended a replica is computed alone: if it ends this one too, no other was the
        # cause. And no answer can be written before the run's first, however many wait.
        suspect = self._queries.attempts.is_suspect(first)
        return (first.is_first_of_run and not suspect) or self._calls.has_room(
            full=self._pool.rows >= self._settings.budget.rows, alone=suspect
        )

    def _is_all_answered(self) -> bool:
        """Whether no query of the run is left, whoever owns its partition."""
        # While others work there is no hurry, and each look reads some of their answers.
        return (
            not self._answers.in_flight
            # What others answered and did not commit is committed by who gets their partitions.
            and self._reader.is_settled
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
