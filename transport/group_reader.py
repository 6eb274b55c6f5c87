"""One member of a consumer group: the partitions that the group gives it -> their messages.

Where a partition begins is the caller's decision at each assignment. Committed offsets are for lag
displays and autoscaling; nothing is read from them. With an offset the group keeps a note of a few
words, which the partition's next owner is told. Knows nothing of what messages hold.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from tutelage.schemas.arguments import check_choice, check_seconds, check_text
from tutelage.schemas.errors import AccessDenied, TransportError
from tutelage.transport.client_errors import DENIED, NEEDS_ACL, describe
from tutelage.transport.connection import BROKER_TIMEOUT_S, KafkaConnection
from tutelage.transport.partition_reader import check_reported
from tutelage.transport.rate_limit import RateLimit

log = logging.getLogger(__name__)

_WARN_EVERY_S = 60.0
# A member gets its first partitions within two rounds of joining, if there are any for it.
_SETTLED_S = 10.0
# Why a commit fails while partitions change hands.
_REBALANCING = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.STALE_MEMBER_EPOCH,
    }
)
# The client needs a poll at least this often, or it leaves the group.
_POLL_LIMIT_MS = 300_000


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupSettings:
    """How a member takes part in its group.

    Args:
        name: The group.
        protocol: "classic" for cooperative-sticky assignment by the members, "consumer" for KIP-848
            (brokers from 4.0 on), where the broker has the timeouts and assigns.
        session_timeout_s: After this long without a sign of life, others get the partitions of a
            classic member. Brokers take 6 s or more unless told otherwise. With "consumer" the
            broker's `group.consumer.session.timeout.ms` counts, which is 45 s.

    Raises:
        ConfigurationError: An argument has the wrong type or value.
    """

    name: str
    protocol: str = "classic"
    session_timeout_s: float = 6.0

    def __post_init__(self) -> None:
        check_text("group", self.name)
        check_choice("group_protocol", self.protocol, ("classic", "consumer"))
        check_seconds("session_timeout_s", self.session_timeout_s)

    @property
    def options(self) -> dict[str, object]:
        """The client's options."""
        common: dict[str, object] = {
            "group.protocol": self.protocol,
            "max.poll.interval.ms": _POLL_LIMIT_MS,
            "auto.offset.reset": "error",
            # A query is answered at once: many small fetches, few bytes ahead.
            "fetch.wait.max.ms": 50,
            "queued.max.messages.kbytes": 16384,
        }
        if self.protocol == "consumer":
            return {**common, "session.timeout.ms": None, "heartbeat.interval.ms": None}
        session_ms = round(1000 * self.session_timeout_s)
        return {
            **common,
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": session_ms,
            "heartbeat.interval.ms": max(1, session_ms // 4),
        }


class GroupReader:
    """Reads one topic as a member of a group. Close it, which leaves the group.

    Guarantee: `take` gives a partition's messages in offset order from the offset that `begin_at`
    named, and none of a partition that the group has taken away.

    Args:
        connection: How the cluster is reached.
        topic: The topic.
        settings: The group.
        begin_at: Partitions that the group gave, and the note that it has of each -> the offset to
            read each from. Called in `take`.
        gone: Called in `take` with the partitions that the group took away, and whether another
            member may have them already.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        topic: str,
        settings: GroupSettings,
        *,
        begin_at: Callable[[Mapping[int, str]], Mapping[int, int]],
        gone: Callable[[Sequence[int], bool], None],
    ) -> None:
        self._topic = topic
        self._settings = settings
        self._begin_at = begin_at
        self._gone = gone
        self._failure: BaseException | None = None
        self._closing = False
        self._owned: frozenset[int] = frozenset()
        self._paused: frozenset[int] = frozenset()
        self._warning_due = RateLimit(_WARN_EVERY_S)
        self._settled_s = time.monotonic() + _SETTLED_S
        #: How often the group has given or taken partitions.
        self.rebalances = 0
        # Lists of the group's members tell them apart by it: in a container the host is its name.
        client_id = f"{connection.client_id}-{socket.gethostname()}-{os.getpid()}"
        consumer = connection.consumer(
            settings.name,
            settings={**settings.options, "client.id": client_id, "on_commit": self._on_commit},
        )
        self._consumer: Consumer | None = consumer
        consumer.subscribe(
            [topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )

    @property
    def is_settled(self) -> bool:
        """Whether the group has given partitions, or none in the time that it takes."""
        return self.rebalances > 0 or time.monotonic() > self._settled_s

    @property
    def owned(self) -> frozenset[int]:
        """The partitions that the group has given."""
        return self._owned

    def take(self, most: int, timeout_s: float) -> list[Message]:
        """Return up to `most` messages; none after the timeout. Takes part in rebalances.

        Raises:
            AccessDenied: This client may not read the topic, or join the group.
            TransportError: The client failed for good.
            Exception: What `begin_at` or `gone` raised.
        """
        consumer = self._consumer
        assert consumer is not None, "not closed"
        try:
            first = consumer.poll(timeout_s)
            found = [] if first is None else [first]
            if first is not None and most > 1:
                found += consumer.consume(most - 1, 0)
        except KafkaException as error:
            self._raise_failure()
            raise TransportError(f"reading topic {self._topic}: {describe(error)}") from error
        self._raise_failure()
        messages = []
        for message in found:
            if message.error() is not None:
                self._check(message)
            elif message.partition() in self._owned:
                messages.append(message)
        return messages

    def seek(self, partition: int, offset: int) -> None:
        """Continue a partition at another offset. Messages already taken from it are stale."""
        if self._consumer is not None and partition in self._owned:
            self._consumer.seek(TopicPartition(self._topic, partition, offset))

    def pause(self, partitions: Collection[int]) -> None:
        """Fetch nothing of these partitions for now, and go on with the others."""
        wanted = self._owned & frozenset(partitions)
        if wanted == self._paused or self._consumer is None:
            return
        for change, numbers in (
            (self._consumer.pause, wanted - self._paused),
            (self._consumer.resume, self._paused - wanted),
        ):
            if numbers:
                change([TopicPartition(self._topic, number) for number in numbers])
        self._paused = wanted

    def commit(self, noted: Mapping[int, tuple[int, str]], *, wait: bool = False) -> None:
        """Commit the next offset of some partitions, and a note with each. Failures are logged.

        Args:
            noted: Partition -> offset and note.
            wait: Whether to wait until the group has them. `close` waits for all of them by itself.
        """
        parts = [
            TopicPartition(self._topic, partition, offset, metadata=note)
            for partition, (offset, note) in noted.items()
        ]
        if not parts or self._consumer is None:
            return
        try:
            if wait and not self._closing:
                self._on_commit(None, self._consumer.commit(offsets=parts, asynchronous=False))
            else:
                self._consumer.commit(offsets=parts, asynchronous=True)
        except KafkaException as error:
            self._on_commit(error.args[0], [])

    def _notes(self, consumer: Consumer, partitions: Sequence[int]) -> dict[int, str]:
        """The note that the group has of each partition."""
        parts = [TopicPartition(self._topic, partition) for partition in partitions]
        try:
            found = consumer.committed(parts, timeout=BROKER_TIMEOUT_S) if parts else []
        except KafkaException as error:
            log.warning("group %s: no notes were read: %s", self._settings.name, describe(error))
            found = []
        told = {part.partition: part.metadata or "" for part in found if part.error is None}
        return {partition: told.get(partition, "") for partition in partitions}

    def close(self) -> None:
        """Leave the group and release the client. May be called twice."""
        if self._consumer is not None:
            self._closing = True
            try:
                # Hands the partitions over: `gone` is called, which may leave notes.
                self._consumer.close()
            finally:
                self._consumer = None
        self._owned = frozenset()

    def _assigned(self, consumer: Consumer, parts: list[TopicPartition]) -> None:
        numbers = [part.partition for part in parts]
        self.rebalances += 1
        if self._closing:
            # They are taken back at once, and the coordinator answers nothing more.
            consumer.incremental_assign([])
            return
        try:
            begins = self._begin_at(self._notes(consumer, numbers)) if numbers else {}
            consumer.incremental_assign(
                [TopicPartition(self._topic, number, begins[number]) for number in numbers]
            )
        except BaseException as error:
            # Raised by `take`: the client drops what its callbacks raise in some places.
            self._failure = self._failure or error
            return
        self._owned |= frozenset(numbers)
        log.info("group %s gives partitions %s of %s", self._settings.name, numbers, self._topic)

    def _revoked(self, consumer: Consumer, parts: list[TopicPartition]) -> None:
        self._leave(consumer, parts, lost=False)

    def _lost(self, consumer: Consumer, parts: list[TopicPartition]) -> None:
        self._leave(consumer, parts, lost=True)

    def _leave(self, consumer: Consumer, parts: list[TopicPartition], *, lost: bool) -> None:
        numbers = [part.partition for part in parts]
        self.rebalances += 1
        self._owned -= frozenset(numbers)
        paused, self._paused = self._paused, self._paused - frozenset(numbers)
        try:
            self._gone(numbers, lost)
        except BaseException as error:
            self._failure = self._failure or error
        try:
            if paused.intersection(numbers):
                # The client would remember it if the partition came back.
                consumer.resume([part for part in parts if part.partition in paused])
            consumer.incremental_unassign(parts)
        except KafkaException as error:
            log.debug("leaving partitions %s of %s: %s", numbers, self._topic, error)
        log.info(
            "group %s %s partitions %s of %s",
            self._settings.name,
            "has lost" if lost else "takes back",
            numbers,
            self._topic,
        )

    def _on_commit(self, error: KafkaError | None, parts: list[TopicPartition]) -> None:
        failed = error or next((part.error for part in parts if part.error is not None), None)
        if failed is not None and failed.code() in _REBALANCING:
            # The next owner commits what it answers.
            log.debug("group %s: offsets not committed: %s", self._settings.name, failed.str())
        elif failed is not None:
            self._warn(describe(failed))

    def _check(self, message: Message) -> None:
        error = message.error()
        if error is not None and error.code() == KafkaError._MAX_POLL_EXCEEDED:
            # The machine may have been suspended. The client joins again with the next poll.
            log.warning("group %s: %s", self._settings.name, error.str())
            return
        if error is not None and error.code() in DENIED:
            raise AccessDenied(
                f"reading topic {self._topic} in group {self._settings.name}: {describe(error)}. "
                f"{NEEDS_ACL}"
            )
        check_reported(message, self._topic)

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _warn(self, why: str) -> None:
        if self._warning_due.due():
            log.warning(
                "group %s: offsets were not committed (%s); the lag that others see is too high, and a "
                "query that ends replicas may not be noticed",
                self._settings.name,
                why,
            )
