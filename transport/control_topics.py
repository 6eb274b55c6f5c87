"""Control messages over Kafka: an outbox and an inbox, each one topic of one partition.

Which message is for whom is decided by `conversation.py`. A teacher that starts again goes on in its inbox behind what its last message
says it had taken; a student reads the teacher's messages from the first, and takes those that are for it.
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
from tutelage.transport.connection import DENIED, NEEDS_ACL, KafkaConnection, describe
from tutelage.transport.runs import TopicRuns
from tutelage.transport.topic_admin import KafkaTopic
from tutelage.transport.waiting import Wait

log = logging.getLogger(__name__)

DELIVERY_TIMEOUT_S = 30.0
_POLL_S = 0.1


class KafkaControl:
    """Sends to one topic and receives from another, in order. Its clients are opened when they are first used; close it.

    A teacher's (`is_teacher`) goes on in its inbox where the last message of a teacher says; messages that name no run and are older
    than `since_s` (seconds since the epoch) belong to an older run, and are passed over.
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
        """Send a value and wait until the broker has it. DeliveryFailed if it does not take it."""
        # Where reading goes on must be known before a message says so.
        self._resume()
        self._deliver(self.conversation.compose(value))

    def recv(self, *, timeout_s: float, frm: str) -> Any:
        """The next value. WaitTimeout, naming `frm`, if none comes in time."""
        wait = Wait(
            f"a control message from {frm} on topic {self._inbox}", timeout_s=timeout_s, log=log
        )
        return self._taken(wait)

    def ask(self, value: Any, *, timeout_s: float, frm: str) -> Any:
        """Send a value and return the answer to it. WaitTimeout, naming `frm`, if none comes in time."""
        wait = Wait(f"an answer from {frm} on topic {self._inbox}", timeout_s=timeout_s, log=log)
        self._resume()
        question = self.conversation.compose(value, asks=True)
        self._deliver(question)
        return self._taken(wait, question.id)

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
                    f"topic {self._outbox} does not exist, and is not to be created: make it, with one partition"
                )
            outbox.create(1, replication=self._replication)
        registry, subject = self._connection.registry, value_subject(self._outbox)
        registry.prepare(subject)
        self._frame = frame(registry.register(subject, control_schema()))
        self._producer = producer
        return producer

    def _resume(self) -> None:
        """Find out where reading goes on in the inbox: by the last message in the outbox, which may be an earlier process's."""
        if not self._resumes:
            return
        self._resumes = False
        outbox = KafkaTopic(self._connection, self._outbox)
        if not outbox.partitions():
            return
        low, high = outbox.first_offsets(1)[0], outbox.end_offsets(1)[0]
        messages = TopicRuns(self._connection, self._outbox).last_messages(
            {0: (low, high)}, look=1
        )[0]
        if messages:
            where = f"topic {self._outbox}, partition 0, offset {messages[-1].offset()}"
            self.conversation.start_at(
                decode_control(unframe(messages[-1].value(), where)[1], where).seen
            )

    def _taken(self, wait: Wait, answer_to: str = "") -> Any:
        self._resume()
        # Where the inbox ended when the wait began, and whether what comes now came later: that does not prolong the wait.
        end, later = 0, False
        while (message := self.conversation.take(answer_to)) is None:
            if later:
                wait.tick()
            consumer = self._consumer or self._begun()
            if consumer is None:
                wait.tick()
                time.sleep(2 * _POLL_S)
                continue
            # What is there already is taken, however short the wait.
            came = consumer.poll(_POLL_S)
            if came is None or came.error() is not None:
                self._check(came.error() if came is not None else None)
                wait.tick()
                continue
            self._arrived(came)
            end = (
                end
                or consumer.get_watermark_offsets(TopicPartition(self._inbox, 0), cached=True)[1]
            )
            later = (came.offset() or 0) >= end
        return message.value

    def _begun(self) -> Consumer | None:
        """A consumer of the inbox; None while there is no such topic."""
        consumer = self._connection.consumer()
        inbox = KafkaTopic(self._connection, self._inbox)
        if not inbox.partitions(consumer):
            # Each client sees a new topic at its next look at the metadata; asking anew is that look.
            consumer.close()
            return None
        # Messages that were kept long enough are deleted; nobody waits for them any more.
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

    def _arrived(self, came: Any) -> None:
        where = f"topic {self._inbox}, partition 0, offset {came.offset()}"
        message = decode_control(unframe(came.value(), where)[1], where)
        if not message.run_id and came.timestamp()[1] < self._since_s * 1000:
            self.conversation.start_at(came.offset() + 1)
            return
        self.conversation.receive(message, came.offset())

    def close(self) -> None:
        """Release the clients. May be called twice."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
        self._producer = None


def student_control(connection: KafkaConnection, topic: str) -> KafkaControl:
    """The student's end of the conversation beside a topic."""
    return KafkaControl(
        connection,
        outbox=to_teacher_topic(topic),
        inbox=to_student_topic(topic),
        sender=f"student of {topic}",
        is_teacher=False,
    )
