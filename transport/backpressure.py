"""Keeping a teacher near its student: records it has written and the student's group has not committed, bounded."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from confluent_kafka import Consumer, KafkaException, TopicPartition

from tutelage.transport.connection import BROKER_TIMEOUT_S, KafkaConnection
from tutelage.transport.topic_admin import KafkaTopic
from tutelage.transport.waiting import Wait

log = logging.getLogger(__name__)

_POLL_S = 0.1


class Backpressure:
    """Counts how far a topic's end is ahead of a consumer group's committed offsets, and waits where it is too far. Close it."""

    def __init__(
        self,
        connection: KafkaConnection,
        topic: str,
        begins: Sequence[int],
        *,
        group: str,
        max_ahead: int,
        timeout_s: float,
    ) -> None:
        self._connection = connection
        self._topic = topic
        self._group = group
        self._max_ahead = max_ahead
        self._timeout_s = timeout_s
        self._consumer: Consumer = connection.consumer(group)
        self._partitions = [TopicPartition(topic, partition) for partition in range(len(begins))]
        found = KafkaTopic(connection, topic)
        # What lies before the run's own records is not for its student to read.
        self._lows = [
            max(each) for each in zip(begins, found.first_offsets(len(begins)), strict=True)
        ]
        self._written = sum(found.end_offsets(len(begins)))
        self._read = self._committed()

    def written(self) -> None:
        """Count a record."""
        self._written += 1

    def wait(self) -> Wait | None:
        """None if there is room for another record; else the wait to tick until there is."""
        return None if self._has_room() else Wait(
            f"group {self._group} to read on: it is {self._written - self._read} records behind the end of topic {self._topic}",
            timeout_s=self._timeout_s,
            log=log,
            hint="is the student running, and does it commit to this group?",
        )  # fmt: skip

    def has_room_after_a_moment(self) -> bool:
        """Look again, after a pause."""
        time.sleep(_POLL_S)
        return self._has_room()

    def _has_room(self) -> bool:
        # What was committed when last seen is enough to know, most of the time.
        if self._written - self._read >= self._max_ahead:
            self._read = self._committed()
        return self._written - self._read < self._max_ahead

    def _committed(self) -> int:
        try:
            found = self._consumer.committed(self._partitions, timeout=BROKER_TIMEOUT_S)
        except KafkaException as error:
            raise self._connection.unavailable(
                f"asking how far group {self._group} has read", error
            ) from error
        return sum(max(part.offset, low) for part, low in zip(found, self._lows, strict=True))

    def close(self) -> None:
        """Release the client."""
        self._consumer.close()
