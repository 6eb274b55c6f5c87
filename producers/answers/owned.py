"""Messages of the partitions that a replica owns -> the queries that it has to answer."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from tutelage.producers.answers.asked import check_only
from tutelage.producers.answers.attempts import Attempts
from tutelage.producers.answers.inputs import check_plain
from tutelage.producers.answers.query import PartitionOrder, Query
from tutelage.producers.answers.settings import AnswerSettings
from tutelage.producers.answers.topic import AnswerTopic
from tutelage.schemas.record import Description, Stream
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.outages import once_known, through_outages
from tutelage.transport.partition_reader import Message
from tutelage.transport.run_messages import RunMessages
from tutelage.transport.runs import FoundRun, TopicRuns
from tutelage.transport.topic_admin import KafkaTopic
from tutelage.transport.topic_identity import IdentityCheck
from tutelage.transport.waiting import Wait

log = logging.getLogger(__name__)

# How long brokers may be away while a partition is begun: less than the client's limit between two
# polls (group_reader.py).
_BROKERS_S = 120.0


class OwnedQueries:
    """The queries of the partitions that one replica owns.

    Guarantee: `take` gives the queries of a partition in order, beginning with the first that had
    no answer when the partition became the replica's; each once.

    Args:
        connection: How the cluster is reached.
        topic: The topic of queries.
        found: The run of queries, and one of its messages.
        answers: Where their answers are.
        settings: How large queries may be, which are this teacher's, and when one is given up.

    Raises:
        ConfigurationError: The queries lack a key by which this teacher knows its own.
        SchemaError: A model cannot be given what the queries hold.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        topic: str,
        found: FoundRun,
        answers: AnswerTopic,
        settings: AnswerSettings,
    ) -> None:
        self._messages = RunMessages(connection, topic, found, settings.limits)
        check_plain(self._messages.description, f"topic {topic}")
        check_only(settings.only, self._messages.description, f"topic {topic}")
        #: Which queries have ended replicas.
        self.attempts = Attempts(self._messages.stream, settings.give_up_after)
        #: The topic of queries.
        self.topic = topic
        self._answers = answers
        self._admin = KafkaTopic(connection, topic)
        self._identity = IdentityCheck(
            self._admin,
            topic,
            once_known(lambda: self._admin.topic_id(self._admin.described()), self._wait()),
            doing="its queries were answered",
            advice="Begin a new run of queries",
        )
        self._runs = TopicRuns(connection, topic, admin=self._admin)
        self._orders: dict[int, PartitionOrder] = {}
        # Partition -> an offset at or before its first query.
        self._starts: dict[int, int] = {}
        #: The partitions that began last -> an offset before which no query lacks an answer, if it
        #: is known.
        self.begun: dict[int, int] = {}
        # Partition -> its end when it began, until it is read up to there.
        self._unread: dict[int, int] = {}
        #: Queries that were passed over: they had an answer, or were written twice.
        self.dropped = 0

    @property
    def stream(self) -> Stream:
        """The run of queries."""
        return self._messages.stream

    @property
    def description(self) -> Description:
        """What queries hold."""
        return self._messages.description

    @property
    def ended(self) -> bool:
        """Whether every query of every partition that is owned was taken, and all that was there
        when it began was read."""
        return not self._unread and all(order.ended for order in self._orders.values())

    @property
    def first_awaited(self) -> frozenset[int]:
        """The partition of the run's first query, if that is still to come here; else none."""
        order = self._orders.get(0)
        return frozenset((0,) if order is not None and order.awaits_first else ())

    @property
    def followed(self) -> bool:
        """Whether a newer run of queries has begun in the topic."""
        return self._messages.followed

    def look(self) -> None:
        """Check now and then that the topic is still the same.

        Raises:
            TopicIdentityError: It was deleted or recreated.
        """
        self._identity.look()

    def begin_at(self, notes: Mapping[int, str]) -> Mapping[int, int]:
        """Begin some partitions behind their last answers.

        Args:
            notes: The partitions, and what the group has noted of each.

        Returns:
            Partition -> the offset to read from.
        """
        stream, wait = self.stream, self._wait()
        # The topic may have more partitions than the run.
        count = once_known(self._admin.partitions, wait)
        lows = through_outages(lambda: self._admin.first_offsets(count), wait)
        ends = through_outages(lambda: self._admin.end_offsets(count), wait)
        mine = [partition for partition in notes if partition < stream.partitions]
        self._starts |= through_outages(lambda: self._runs.starts_in(stream, count, mine), wait)
        offsets = {partition: ends[partition] for partition in notes}
        self.begun = dict(offsets)
        for partition in offsets.keys() - set(mine):
            # The run does not have it. Its last record may be of a newer run.
            offsets[partition] = max(lows[partition], ends[partition] - 1)
        for partition, missing in self._answers.missing(mine).items():
            order = PartitionOrder(partition, stream.partitions, missing, stream.passes)
            self._orders[partition] = order
            self.attempts.begin(partition, missing, notes[partition])
            start = self._starts[partition]
            # So many records lie before it, or more, if some were written twice. If the broker has
            # deleted some, fewer do, and how many is not known.
            guess = start + order.passed if start > lows[partition] or not start else start
            # At least one record is read, so that `take` sees whether reading began too late, or
            # behind its end, whether a newer run has begun.
            last = max(start, ends[partition] - 1)
            offsets[partition] = last if order.ended else min(guess, last)
            if offsets[partition] < ends[partition]:
                self._unread[partition] = ends[partition]
            if order.ended and partition in self._unread:
                # What is committed is known once that record is read.
                del self.begun[partition]
            elif not order.ended:
                self.begun[partition] = min(guess, ends[partition])
        return offsets

    def _wait(self) -> Wait:
        return Wait(f"the brokers, about topic {self.topic}", timeout_s=_BROKERS_S, log=log)

    def forget(self, partitions: Iterable[int]) -> None:
        """Forget partitions that are another replica's now."""
        for partition in partitions:
            self._orders.pop(partition, None)
            self._unread.pop(partition, None)
            self.attempts.forget(partition)

    def owns(self, query: Query) -> bool:
        """Whether a query's partition has been this replica's since it was taken."""
        return self._orders.get(query.partition) is query.order

    def take(self, message: Message) -> Query | int | None:
        """Take a message.

        Returns:
            A query to answer; None for a message without one; or the offset from which its
            partition must be read instead.

        Raises:
            SequenceGap: The topic of queries has lost records.
            DataError, SchemaError: The message is damaged, or does not fit the run.
        """
        partition = message.partition() or 0
        if (message.offset() or 0) + 1 >= self._unread.get(partition, 0):
            self._unread.pop(partition, None)
        # Checked first, because a newer run may show only in a partition that this run does not have.
        is_of_other_run = self._messages.is_of_older_run(message) is not None
        order = self._orders.get(partition)
        if order is None or is_of_other_run:
            return None
        found = self._messages.decode(message)
        head = found.record.head
        if order.is_too_late(head):
            return self._starts[found.partition]
        if not order.accept(head, found.where):
            self.dropped += 1
            return None
        return Query(
            partition=found.partition,
            offset=found.offset,
            head=head,
            columns=found.record.columns,
            nbytes=found.record.nbytes,
            order=order,
        )
