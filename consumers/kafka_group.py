"""A student's progress in a consumer group: committed for lag tools and for teachers that wait for it; nothing read depends on it."""

from __future__ import annotations

import logging
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tutelage.consumers.source import BEGINNING, Opened, Position
from tutelage.schemas.errors import TransportError
from tutelage.schemas.kafka_connection import KafkaConnection, describe
from tutelage.schemas.kafka_topic import KafkaTopic

log = logging.getLogger(__name__)

# How long the answer to the last commits is waited for.
_LAST_ANSWER_S = 5.0


class Group:
    """Commits how far a student has come with one topic, or says once that it cannot and leaves it.

    By a client of its own: one that another thread polls lets nobody in between its polls. Made when it is first needed; close it.
    """

    def __init__(self, connection: KafkaConnection, name: str, topic: str) -> None:
        self._connection = connection
        self._name = name
        self._topic = topic
        self._consumer: Consumer | None = None
        self._refused = False
        self._pending = 0

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_consumer": None}

    def commit(self, asked: KafkaTopic, opened: Opened, position: Position) -> None:
        """Commit a position, without waiting for the broker's answer."""
        if self._refused:
            return
        at = position.offsets
        try:
            if position.pass_index >= opened.stream.passes:
                # Behind the run's last record nothing of it follows; control records of transactions may, and would look like lag for ever.
                at = tuple(asked.end_offsets(opened.partitions))
            offsets = [
                TopicPartition(self._topic, partition, offset) for partition, offset in enumerate(at) if offset != BEGINNING
            ]
            if offsets:
                self._client().commit(offsets=offsets, asynchronous=True)
                self._pending += 1
            self._serve(0)
        except (KafkaException, TransportError) as error:
            self._refuse(describe(error))

    def _client(self) -> Consumer:
        if self._consumer is None:
            self._consumer = self._connection.consumer(self._name, settings={"on_commit": self._answered})
        return self._consumer

    def _answered(self, error: KafkaError | None, _: list[TopicPartition]) -> None:
        self._pending -= 1
        if error is not None:
            self._refuse(describe(error))

    def _serve(self, timeout_s: float) -> None:
        """Hear what came of earlier commits; nothing is assigned, so no record comes."""
        message = self._client().poll(timeout_s)
        error = message.error() if message is not None else None
        if error is not None and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            self._refuse(describe(error))

    def _refuse(self, why: str) -> None:
        """Say that commits are refused, once, and make no more: each would be waited for at the end."""
        if self._refused:
            return
        self._refused = True
        log.warning("group %s: progress was not committed (%s); only lag tools and max_ahead notice", self._name, why)

    def close(self) -> None:
        """Wait for what was committed, a few seconds at most, and release the client."""
        if self._consumer is not None:
            deadline = time.monotonic() + _LAST_ANSWER_S
            try:
                while self._pending and not self._refused and time.monotonic() < deadline:
                    self._serve(0.05)
            except KafkaException as error:
                log.debug("closing group %s: %s", self._name, describe(error))
            self._consumer.close()
            self._consumer = None
