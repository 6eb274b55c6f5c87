"""Control messages over Kafka: an outbox and an inbox, each a topic with one partition.

`conversation.py` decides which message is for whom. A restarted teacher goes on in its inbox after
what its last message says it had taken. A student reads the teacher's messages from the first one,
and takes those that are for it. Knows nothing of the values.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from tutelage.schemas.control import control_schema, decode_control, encode_control
from tutelage.schemas.conversation import Conversation, Message
from tutelage.schemas.errors import AccessDenied, ConfigurationError, DeliveryFailed
from tutelage.schemas.framing import frame, unframe
from tutelage.schemas.topic import to_student_topic, to_teacher_topic, value_subject
from tutelage.transport.client_errors import DENIED, NEEDS_ACL, describe
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.runs import TopicRuns
from tutelage.transport.topic_admin import KafkaTopic
from tutelage.transport.waiting import Wait

log = logging.getLogger(__name__)

DELIVERY_TIMEOUT_S = 30.0
_POLL_S = 0.1


class KafkaControl:
    """Sends to one topic and receives from another, in order. Close it.

    Its clients are opened when they are first needed.

    Args:
        connection: How to reach the cluster and the registry.
        outbox: The topic to send to.
        inbox: The topic to receive from.
        sender: Who sends, in words.
        is_teacher: Whether this is the teacher's end: it goes on in its inbox where the last
            message of a teacher says.
        since_s: Seconds since the epoch. Older messages that name no run belong to an older run
            and are skipped.
        replication: The replication factor of a new outbox; -1 for the broker's default.
        create: Whether to create the outbox if it is missing.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        *,
        outbox: str,
        inbox: str,
        sender: str,
        is_teacher: bool,
        since_s: float = 0.0,
        replication: int = -1,
        create: bool = True,
    ) -> None:
        self._connection = connection
        self._outbox = outbox
        self._inbox = inbox
        self._sender = sender
        self._resumes = is_teacher
        self._since_s = since_s
        self._replication = replication
        self._create = create
        self._producer: Producer | None = None
        self._consumer: Consumer | None = None
        self._frame = b""
        self.conversation = Conversation(answers_all=is_teacher)

    def send(self, value: Any) -> None:
        """Send a value and wait until the broker has acknowledged it.

        Raises:
            DeliveryFailed: The broker did not acknowledge it.
        """
        # A message says where reading goes on, so that must be known first.
        self._resume()
        self._deliver(self.conversation.compose(value))

    def recv(self, *, timeout_s: float, frm: str) -> Any:
        """Return the next value.

        Raises:
            WaitTimeout: None came in time. The error names `frm`.
        """
        wait = Wait(
            f"a control message from {frm} on topic {self._inbox}", timeout_s=timeout_s, log=log
        )
        return self._receive(wait)

    def ask(self, value: Any, *, timeout_s: float, frm: str) -> Any:
        """Send a value and return the answer to it.

        Raises:
            WaitTimeout: None came in time. The error names `frm`.
        """
        wait = Wait(f"an answer from {frm} on topic {self._inbox}", timeout_s=timeout_s, log=log)
        self._resume()
        question = self.conversation.compose(value, asks=True)
        self._deliver(question)
        return self._receive(wait, question.id)

    def _deliver(self, message: Message) -> None:
        body = encode_control(message, self._sender)
        producer = self._producer or self._new_producer()
        failed: list[str] = []

        def delivered(error: KafkaError | None, _: object) -> None:
            if error is not None:
                failed.append(error.str())

        producer.produce(self._outbox, value=self._frame + body, partition=0, on_delivery=delivered)
        if producer.flush(DELIVERY_TIMEOUT_S) or failed:
            cause = failed[0] if failed else f"not acknowledged within {DELIVERY_TIMEOUT_S:.0f} s"
            raise DeliveryFailed(f"a control message to {self._outbox} was not delivered: {cause}")

    def _new_producer(self) -> Producer:
        producer = self._connection.producer()
        outbox = KafkaTopic(self._connection, self._outbox)
        if not outbox.partitions(producer):
            if not self._create:
                raise ConfigurationError(
                    f"topic {self._outbox} does not exist, and is not to be created: create it "
                    "with one partition"
                )
            outbox.create(1, replication=self._replication)
        registry, subject = self._connection.registry, value_subject(self._outbox)
        registry.prepare(subject)
        self._frame = frame(registry.register(subject, control_schema()))
        self._producer = producer
        return producer

    def _resume(self) -> None:
        """Find where to go on in the inbox: the last message in the outbox says it."""
        if not self._resumes:
            return
        self._resumes = False
        outbox = KafkaTopic(self._connection, self._outbox)
        if not outbox.partitions():
            return
        low, high = outbox.first_offsets(1)[0], outbox.end_offsets(1)[0]
        messages = TopicRuns(self._connection, self._outbox).last_messages(
            {0: (low, high)}, window=1
        )[0]
        if messages:
            where = f"topic {self._outbox}, partition 0, offset {messages[-1].offset()}"
            self.conversation.start_at(
                decode_control(unframe(messages[-1].value(), where)[1], where).seen
            )

    def _receive(self, wait: Wait, answer_to: str = "") -> Any:
        self._resume()
        # Messages behind the end that the inbox had at the first one do not prolong the wait.
        end, later = 0, False
        while (message := self.conversation.take(answer_to)) is None:
            if later:
                wait.tick()
            consumer = self._consumer or self._open_inbox()
            if consumer is None:
                wait.tick()
                time.sleep(2 * _POLL_S)
                continue
            # Existing messages are taken, however short the wait.
            received = consumer.poll(_POLL_S)
            if received is None or received.error() is not None:
                self._check(received.error() if received is not None else None)
                wait.tick()
                continue
            self._accept(received)
            end = (
                end
                or consumer.get_watermark_offsets(TopicPartition(self._inbox, 0), cached=True)[1]
            )
            later = (received.offset() or 0) >= end
        return message.value

    def _open_inbox(self) -> Consumer | None:
        """A consumer of the inbox; None while there is no such topic."""
        consumer = self._connection.consumer()
        inbox = KafkaTopic(self._connection, self._inbox)
        if not inbox.partitions(consumer):
            # A new client fetches new metadata, which may contain the topic by then.
            consumer.close()
            return None
        # Retention may have deleted the first messages; nobody waits for those any more.
        start = max(self.conversation.seen, inbox.first_offsets(1)[0])
        consumer.assign([TopicPartition(self._inbox, 0, start)])
        self._consumer = consumer
        return consumer

    def _check(self, error: KafkaError | None) -> None:
        if error is None or error.code() == KafkaError._PARTITION_EOF:
            return
        if error.code() in DENIED and error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED:
            raise AccessDenied(f"reading topic {self._inbox}: {describe(error)}. {NEEDS_ACL}")
        log.debug("reading %s: %s", self._inbox, error.str())

    def _accept(self, received: Any) -> None:
        where = f"topic {self._inbox}, partition 0, offset {received.offset()}"
        message = decode_control(unframe(received.value(), where)[1], where)
        if not message.run_id and received.timestamp()[1] < self._since_s * 1000:
            self.conversation.start_at(received.offset() + 1)
            return
        self.conversation.receive(message, received.offset())

    def close(self) -> None:
        """Release the clients. May be called twice."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
        self._producer = None


def student_control(connection: KafkaConnection, topic: str) -> KafkaControl:
    """Return the student's end of the control messages that belong to a topic."""
    return KafkaControl(
        connection,
        outbox=to_teacher_topic(topic),
        inbox=to_student_topic(topic),
        sender=f"student of {topic}",
        is_teacher=False,
    )
