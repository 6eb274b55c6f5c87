"""A student's progress in a consumer group: committed for lag tools and for teachers that wait for it; nothing read depends on it."""

from __future__ import annotations

import logging

from confluent_kafka import Consumer, KafkaException, TopicPartition

from tutelage.consumers.source import BEGINNING, Opened, Position
from tutelage.schemas.errors import TransportError
from tutelage.schemas.kafka_connection import describe
from tutelage.schemas.kafka_topic import KafkaTopic

log = logging.getLogger(__name__)


class Group:
    """Commits how far a student has come with one topic, or says once that it cannot and leaves it."""

    def __init__(self, name: str, topic: str) -> None:
        self.name = name
        self._topic = topic
        self._refused = False

    def commit(self, consumer: Consumer, asked: KafkaTopic, opened: Opened, position: Position) -> None:
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
                consumer.commit(offsets=offsets, asynchronous=True)
        except (KafkaException, TransportError) as error:
            self.refused(describe(error))

    def refused(self, why: str) -> None:
        """Say that commits are refused, once, and make no more: each would be waited for when the consumer is closed."""
        if not self._refused:
            self._refused = True
            log.warning("group %s: progress was not committed (%s); only lag tools and max_ahead notice", self.name, why)
