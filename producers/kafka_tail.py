"""What a topic holds at the end of each partition, read backwards past control records and whatever a zombie left there."""

from __future__ import annotations

import logging

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from tutelage.producers.sink import Tail, tail_of
from tutelage.schemas.codec import Codec
from tutelage.schemas.errors import RunMismatch, TransportError
from tutelage.schemas.framing import unframe
from tutelage.schemas.kafka_connection import BROKER_TIMEOUT_S, KafkaConnection
from tutelage.schemas.kafka_topic import KafkaTopic
from tutelage.schemas.knowledge_schema import description_of
from tutelage.schemas.record import RecordHead, Stream
from tutelage.schemas.topic import stream_of_headers
from tutelage.schemas.waiting import Wait

log = logging.getLogger(__name__)

# Few: the last record is nearly always the last offset, and each may be megabytes.
_FIRST_LOOK = 4
# The last because the client asks for a group's coordinator, needed or not.
_PASSING = (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError.GROUP_AUTHORIZATION_FAILED)


def read_tail(connection: KafkaConnection, topic: str, partitions: int) -> tuple[Tail, list[tuple[int, int]]] | None:
    """The run a topic holds and each partition's first missing record; None if it holds nothing.

    Raises RunMismatch if the partitions' tails belong to different runs.
    """
    asked = KafkaTopic(connection, topic)
    lows, highs = asked.first_offsets(partitions), asked.end_offsets(partitions)
    if lows == highs:
        return None
    consumer = connection.consumer()
    try:
        tails = [
            _last_messages(consumer, topic, partition, low, high)
            for partition, (low, high) in enumerate(zip(lows, highs, strict=True))
        ]
        messages = [message for found in tails for message in found]
        if not messages:
            return None
        stream: Stream | None = None
        codecs: dict[int, Codec] = {}
        heads: list[list[RecordHead]] = []
        for found in tails:
            heads.append([])
            for message in found:
                where = f"topic {topic}, partition {message.partition()}, offset {message.offset()}"
                theirs = stream_of_headers(message.headers() or (), where)
                if stream is not None and theirs.run_id != stream.run_id:
                    raise RunMismatch(f"{where}: a record of {theirs}, but others here are of {stream}; use a topic per run")
                stream = stream or theirs
                schema_id, body = unframe(message.value(), where)
                if schema_id not in codecs:
                    codecs[schema_id] = Codec(description_of(connection.registry.schema(schema_id), f"schema {schema_id}"))
                heads[-1].append(codecs[schema_id].decode(body, where).head)
        assert stream is not None, "there is at least one message"
        return tail_of(stream, next(iter(codecs.values())).description, heads[: stream.partitions])
    finally:
        consumer.close()


def _last_messages(consumer: Consumer, topic: str, partition: int, low: int, high: int) -> list[Message]:
    look = _FIRST_LOOK
    while high > low:
        start = max(low, high - look)
        found = _read(consumer, topic, partition, start, high)
        if found or start == low:
            return found
        look *= 8
    return []


def _read(consumer: Consumer, topic: str, partition: int, start: int, stop: int) -> list[Message]:
    consumer.assign([TopicPartition(topic, partition, start)])
    wait = Wait(f"the tail of topic {topic!r}, partition {partition}", timeout_s=6 * BROKER_TIMEOUT_S, log=log)
    found: list[Message] = []
    while True:
        message = consumer.poll(0.2)
        wait.tick()
        if message is None:
            continue
        error = message.error()
        if error is None:
            found.append(message)
            if (message.offset() or 0) + 1 >= stop:
                return found
        elif error.code() == KafkaError._PARTITION_EOF:
            return found
        elif not error.retriable() and error.code() not in _PASSING:
            raise TransportError(f"topic {topic}, partition {partition}, offset {message.offset()}: {error.str()}")
