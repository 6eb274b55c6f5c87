"""Control messages over Kafka: an outbox and an inbox, each one topic of one partition.

A side that starts again reads its inbox from the beginning: the conversation belongs to the run, as the records do.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from tutelage.schemas.control import control_schema, decode_control, encode_control
from tutelage.schemas.errors import ConfigurationError, DeliveryFailed
from tutelage.schemas.framing import frame, unframe
from tutelage.schemas.kafka_connection import KafkaConnection
from tutelage.schemas.kafka_topic import KafkaTopic
from tutelage.schemas.topic import value_subject
from tutelage.schemas.waiting import Wait

log = logging.getLogger(__name__)

DELIVERY_TIMEOUT_S = 30.0


class KafkaControl:
    """Sends to one topic and receives from another, in order. Opened when first used; close it."""

    def __init__(
        self, connection: KafkaConnection, *, outbox: str, inbox: str, sender: str, replication: int = -1, create: bool = True
    ) -> None:
        self._connection = connection
        self._outbox = outbox
        self._inbox = inbox
        self._sender = sender
        self._replication = replication
        self._create = create
        self._producer: Producer | None = None
        self._consumer: Consumer | None = None
        self._frame = b""

    def send(self, value: Any) -> None:
        """Send a value and wait until the broker has it. DeliveryFailed if it does not take it."""
        message = encode_control(value, self._sender)
        if self._producer is None:
            producer = self._connection.producer()
            outbox = KafkaTopic(self._connection, self._outbox)
            if not outbox.partitions(producer):
                if not self._create:
                    raise ConfigurationError(
                        f"topic {self._outbox} does not exist, and is not to be created: make it, with one partition"
                    )
                outbox.create(1, replication=self._replication)
            registry, subject = self._connection.registry, value_subject(self._outbox)
            registry.prepare(subject)
            self._frame = frame(registry.register(subject, control_schema()))
            self._producer = producer
        failed: list[str] = []

        def delivered(error: KafkaError | None, _: object) -> None:
            if error is not None:
                failed.append(error.str())

        self._producer.produce(self._outbox, value=self._frame + message, partition=0, on_delivery=delivered)
        if self._producer.flush(DELIVERY_TIMEOUT_S) or failed:
            cause = failed[0] if failed else f"not acknowledged within {DELIVERY_TIMEOUT_S:.0f} s"
            raise DeliveryFailed(f"a control message to {self._outbox} was not delivered: {cause}")

    def recv(self, *, timeout_s: float, frm: str) -> Any:
        """The next value. WaitTimeout, naming `frm`, if none comes in time."""
        wait = Wait(f"a control message from {frm} on topic {self._inbox}", timeout_s=timeout_s, log=log)
        while self._consumer is None:
            consumer = self._connection.consumer()
            if KafkaTopic(self._connection, self._inbox).partitions(consumer):
                consumer.assign([TopicPartition(self._inbox, 0, 0)])
                self._consumer = consumer
            else:
                # Each client sees a new topic at its next look at the metadata; asking anew is that look.
                consumer.close()
                time.sleep(0.2)
                wait.tick()
        while True:
            message = self._consumer.poll(0.1)
            wait.tick()
            if message is None:
                continue
            error = message.error()
            if error is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    log.debug("reading %s: %s", self._inbox, error.str())
                continue
            where = f"topic {self._inbox}, partition 0, offset {message.offset()}"
            return decode_control(unframe(message.value(), where)[1], where)

    def close(self) -> None:
        """Release the clients. May be called twice."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
        self._producer = None
