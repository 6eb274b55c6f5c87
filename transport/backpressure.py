"""Backpressure: limits how many records a teacher is ahead of its student's consumer group."""

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
    """Counts records between a group's committed offsets and a topic's end. Close it.

    Args:
        connection: How to reach the cluster.
        topic: The topic.
        begins: Per partition, an offset at or before the run's first record.
        group: The student's consumer group.
        max_ahead: The most records that the teacher may be ahead.
        timeout_s: How long to wait for room, in seconds.
    """

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
        # The student does not read what lies before the run.
        self._lows = [
            max(each) for each in zip(begins, found.first_offsets(len(begins)), strict=True)
        ]
        self._written = sum(found.end_offsets(len(begins)))
        self._read = self._committed()

    def written(self) -> None:
        """Count a written record."""
        self._written += 1

    def wait(self) -> Wait | None:
        """Return a wait to tick until there is room for another record; None if there is."""
        return None if self._has_room() else Wait(
            f"group {self._group} to read on: it is {self._written - self._read} records behind "
            f"the end of topic {self._topic}",
            timeout_s=self._timeout_s,
            log=log,
            hint="is the student running, and does it commit to this group?",
        )  # fmt: skip

    def has_room_after_a_moment(self) -> bool:
        """Pause for 0.1 s, and say whether there is room."""
        time.sleep(_POLL_S)
        return self._has_room()

    def _has_room(self) -> bool:
        # The offsets read last are usually enough.
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
