"""A student's progress in a consumer group: committed for lag tools and for teachers that wait for it; nothing read depends on it."""

from __future__ import annotations

import logging
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tutelage.consumers.source import BEGINNING, Opened, Position
from tutelage.schemas.errors import TransportError
from tutelage.schemas.kafka_connection import DENIED, KafkaConnection, describe
from tutelage.schemas.kafka_topic import KafkaTopic

log = logging.getLogger(__name__)

# How long the answer to the last commits is waited for.
_LAST_ANSWER_S = 5.0
_SAID_EVERY_S = 60.0


class Group:
    """Commits how far a student has come with one topic; says where it cannot, and leaves it where it may not.

    By a client of its own: one that another thread polls lets nobody in between its polls. Made when it is first needed; close it.
    """

    def __init__(self, connection: KafkaConnection, name: str, topic: str) -> None:
        self._connection = connection
        self._name = name
        self._topic = topic
        self._begin()

    def _begin(self) -> None:
        self._consumer: Consumer | None = None
        self._denied = False
        self._pending = 0
        self._unheard: list[TopicPartition] = []
        self._said_s = -_SAID_EVERY_S

    def __getstate__(self) -> dict[str, object]:
        return {"_connection": self._connection, "_name": self._name, "_topic": self._topic}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._begin()

    def commit(self, asked: KafkaTopic, opened: Opened, position: Position) -> None:
        """Commit a position, without waiting for the broker's answer."""
        if self._denied:
            return
        at = position.offsets
        try:
            if position.pass_index >= opened.stream.passes:
                at = self._behind_all(asked, opened, at)
            offsets = [
                TopicPartition(self._topic, partition, offset) for partition, offset in enumerate(at) if offset != BEGINNING
            ]
            if offsets:
                self._send(offsets)
            self._serve(0)
        except (KafkaException, TransportError) as error:
            self._say(describe(error))

    def _behind_all(self, asked: KafkaTopic, opened: Opened, at: tuple[int, ...]) -> tuple[int, ...]:
        """Behind the run's last record nothing of it follows; control records of transactions may, and would look like lag for ever."""
        try:
            return tuple(asked.end_offsets(opened.partitions))
        except TransportError as error:
            # Without those there is nothing more: the run's end is the partitions' end.
            log.debug("the ends of topic %s are not known: %s", self._topic, error)
            return at

    def _send(self, offsets: list[TopicPartition]) -> None:
        self._unheard = offsets
        if self._consumer is None:
            self._consumer = self._connection.consumer(self._name, settings={"on_commit": self._answered})
        self._consumer.commit(offsets=offsets, asynchronous=True)
        self._pending += 1

    def _answered(self, error: KafkaError | None, _: list[TopicPartition]) -> None:
        self._pending -= 1
        if error is not None:
            # A broker that starts again, say: the next commit says it all once more.
            self._denied = self._denied or error.code() in DENIED
            self._say(describe(error))
        elif not self._pending:
            self._unheard = []

    def _serve(self, timeout_s: float) -> None:
        """Hear what came of earlier commits; nothing is assigned, so no record comes."""
        message = self._consumer.poll(timeout_s) if self._consumer is not None else None
        error = message.error() if message is not None else None
        if error is not None and error.code() in DENIED and not self._denied:
            # No more of them: each would be waited for at the end.
            self._denied = True
            self._say(describe(error))

    def _say(self, why: str) -> None:
        now = time.monotonic()
        if now - self._said_s >= _SAID_EVERY_S:
            self._said_s = now
            log.warning("group %s: progress was not committed (%s); only lag tools and max_ahead notice", self._name, why)

    def close(self) -> None:
        """Commit what was not heard of once more, wait a few seconds at most, and release the client."""
        if self._consumer is not None:
            deadline = time.monotonic() + _LAST_ANSWER_S
            try:
                while self._unheard and not self._denied and time.monotonic() < deadline:
                    if not self._pending:
                        self._send(self._unheard)
                    self._serve(0.1)
            except KafkaException as error:
                self._say(describe(error))
            self._consumer.close()
            self._consumer = None
