"""Messages as they come from a consumer, and what it reports instead of one, as our errors."""

from __future__ import annotations

import logging

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from tutelage.schemas.errors import AccessDenied, CorruptData, RetentionLoss, TopicIdentityError, TransportError
from tutelage.schemas.kafka_connection import DENIED, NEEDS_ACL, describe
from tutelage.schemas.waiting import Wait

log = logging.getLogger(__name__)

# Errors the client recovers from by itself; anything else ends the student.
_PASSING = frozenset(
    {
        KafkaError._PARTITION_EOF,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TIMED_OUT,
        KafkaError._RESOLVE,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        # The client asks for a coordinator, although no group is joined.
        KafkaError.GROUP_AUTHORIZATION_FAILED,
    }
)


def first_message(consumer: Consumer, topic: str, wait: Wait) -> Message:
    """The first message that comes, waited for."""
    while True:
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            return message
        if message is not None:
            check_reported(message, topic)
        wait.tick()


def taken(consumer: Consumer, most: int) -> list[Message]:
    """The messages that are there, at most so many; none if none comes for a moment.

    `consume` with a timeout would wait for all of them, and a lone record with it.
    """
    first = consumer.poll(0.1)
    if first is None:
        return []
    return [first, *consumer.consume(most - 1, 0)] if most > 1 else [first]


def reached(consumer: Consumer, topic: str, partitions: int) -> list[tuple[int, int]]:
    """How far a consumer has given out each partition, and where that ended by its last fetch; zeros where it knows nothing."""
    parts = [TopicPartition(topic, partition) for partition in range(partitions)]
    try:
        # Both are what the client knows: no broker is asked.
        places = consumer.position(parts)
        ends = [consumer.get_watermark_offsets(part, cached=True) for part in parts]
    except KafkaException:
        return []
    return [(max(0, place.offset), max(0, end[1] if end else 0)) for place, end in zip(places, ends, strict=True)]


def check_reported(message: Message, topic: str) -> None:
    """Raise what the client reports in place of a message, unless it recovers from it by itself."""
    error = message.error()
    assert error is not None, "only called for errors"
    where = f"topic {topic}, partition {message.partition()}, offset {message.offset()}"
    if error.code() == KafkaError._AUTO_OFFSET_RESET:
        raise RetentionLoss(f"{where}: the broker no longer has this record ({error.str()}); raise retention.ms")
    if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION):
        raise TopicIdentityError(f"{where}: the topic or partition is gone; what was not read of it is lost")
    if error.code() == KafkaError._BAD_COMPRESSION:
        raise CorruptData(
            f"{where}: {error.str()}. The batch is broken, or unpacks to more than receive.message.max.bytes; where records that large are "
            "meant, raise that with -X or in options"
        )
    if error.code() in DENIED - _PASSING:
        raise AccessDenied(f"{where}: {describe(error)}. {NEEDS_ACL}")
    if error.code() not in _PASSING and not error.retriable():
        raise TransportError(f"{where}: {error.str()}")
    log.debug("%s: %s", where, error.str())
