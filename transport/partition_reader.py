"""Partitions of one topic -> messages, from given offsets. Translates the client's errors.

Knows nothing of what messages hold.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from tutelage.schemas.errors import (
    AccessDenied,
    CorruptData,
    RetentionLoss,
    TopicIdentityError,
    TransportError,
)
from tutelage.transport.client_errors import DENIED, NEEDS_ACL, describe
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.topic_admin import KafkaTopic
from tutelage.transport.waiting import Wait

__all__ = ["Message", "PartitionReader"]

log = logging.getLogger(__name__)

_POLL_S = 0.1
# The client recovers from these errors by itself; any other ends the student.
_TRANSIENT = frozenset(
    {
        KafkaError._PARTITION_EOF,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TIMED_OUT,
        KafkaError._RESOLVE,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        # The client looks for a coordinator although it joins no group.
        KafkaError.GROUP_AUTHORIZATION_FAILED,
    }
)


class PartitionReader:
    """Fetches messages from one topic's partitions. Joins no group, commits nothing. Close it.

    Guarantee: a partition's messages come in offset order from the given offset on. If the broker
    has deleted one, an error is raised.
    """

    def __init__(self, connection: KafkaConnection, topic: str) -> None:
        self._connection = connection
        self._topic = topic
        self._consumer: Consumer | None = None
        self._assigned: tuple[int, ...] = ()
        self._held: frozenset[int] = frozenset()

    def begin(
        self,
        admin: KafkaTopic,
        offsets: Mapping[int, int],
        *,
        record_bytes: int = 0,
        sparing: bool = False,
    ) -> None:
        """Read some partitions, each from its offset on, with a new consumer.

        A consumer that is reassigned while it fetches may stall for three seconds.

        Args:
            admin: The topic.
            offsets: Partition -> the first offset to read.
            record_bytes: The size of the records in the topic; 0 if it is not known.
            sparing: Whether only a first message is wanted: nothing is fetched ahead.
        """
        self.close()
        self._consumer = consumer = self._connection.consumer(
            partitions=len(offsets), record_bytes=record_bytes, sparing=sparing
        )
        self._assigned, self._held = tuple(offsets), frozenset()
        # With metadata the client fetches at once; without, it looks for leaders a second later.
        admin.partitions(consumer)
        consumer.assign(
            [
                TopicPartition(self._topic, partition, offset)
                for partition, offset in offsets.items()
            ]
        )

    def first(self, wait: Wait) -> Message:
        """Wait for the first message and return it.

        Raises:
            WaitTimeout: None came in time.
        """
        while True:
            message = self._assigned_consumer().poll(_POLL_S)
            if message is not None and message.error() is None:
                return message
            if message is not None:
                self.check_reported(message)
            wait.tick()

    def take(self, most: int) -> list[Message]:
        """Return up to `most` available messages, which may report errors; empty after 0.1 s.

        `consume` with a timeout would wait for all of them, and delay a single record.
        """
        consumer = self._assigned_consumer()
        first = consumer.poll(_POLL_S)
        if first is None:
            return []
        return [first, *consumer.consume(most - 1, 0)] if most > 1 else [first]

    def reached(self, partitions: int) -> list[tuple[int, int]]:
        """Return each partition's next offset and its end at the last fetch; 0 where unknown."""
        if self._consumer is None:
            return []
        parts = [TopicPartition(self._topic, partition) for partition in self._assigned]
        try:
            # Both come from the client's cache, without a request.
            positions = self._consumer.position(parts)
            ends = [self._consumer.get_watermark_offsets(part, cached=True) for part in parts]
        except KafkaException:
            return []
        found = {
            position.partition: (max(0, position.offset), max(0, end[1] if end else 0))
            for position, end in zip(positions, ends, strict=True)
        }
        return [found.get(partition, (0, 0)) for partition in range(partitions)]

    def check_reported(self, message: Message) -> None:
        """Raise the error that a message reports; see the function of this name."""
        check_reported(message, self._topic)

    def seek(self, partition: int, offset: int) -> None:
        """Continue a partition at another offset. Messages already taken from it are stale."""
        self._assigned_consumer().seek(TopicPartition(self._topic, partition, offset))

    def hold(self, partitions: frozenset[int]) -> None:
        """Pause these partitions, and resume those that were paused before."""
        if self._consumer is None or partitions == self._held:
            return
        before, self._held = self._held, partitions
        self._consumer.pause(
            [TopicPartition(self._topic, partition) for partition in partitions - before]
        )
        self._consumer.resume(
            [TopicPartition(self._topic, partition) for partition in before - partitions]
        )

    def close(self) -> None:
        """Release the client. May be called twice; `begin` opens another."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    def _assigned_consumer(self) -> Consumer:
        assert self._consumer is not None, "begin is called first"
        return self._consumer


def check_reported(message: Message, topic: str) -> None:
    """Raise the error that a message reports, unless the client recovers from it by itself."""
    error = message.error()
    assert error is not None, "only called for errors"
    where = f"topic {topic}, partition {message.partition()}, offset {message.offset()}"
    if error.code() == KafkaError._AUTO_OFFSET_RESET:
        raise RetentionLoss(
            f"{where}: the broker no longer has this record ({error.str()}); raise retention.ms"
        )
    if error.code() in (
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    ):
        raise TopicIdentityError(
            f"{where}: the topic or partition is gone; its unread records are lost"
        )
    if error.code() == KafkaError._BAD_COMPRESSION:
        raise CorruptData(
            f"{where}: {error.str()}. The batch is broken, or unpacks to more than "
            "receive.message.max.bytes; if records are meant to be that large, raise it with "
            "-X or "
            "in options"
        )
    if error.code() in DENIED - _TRANSIENT:
        raise AccessDenied(f"{where}: {describe(error)}. {NEEDS_ACL}")
    if error.code() not in _TRANSIENT and not error.retriable():
        raise TransportError(f"{where}: {error.str()}")
    log.debug("%s: %s", where, error.str())
