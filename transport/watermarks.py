"""First and end offsets of a topic's partitions, updated without waiting: for lag and retention."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaException, TopicPartition

from tutelage.transport.connection import BROKER_TIMEOUT_S, KafkaConnection
from tutelage.transport.topic_admin import EARLIEST, LATEST, KafkaTopic

log = logging.getLogger(__name__)


class Watermarks:
    """The last known first and end offsets of a topic's partitions. May be used from any thread.

    Guarantee: `latest` never waits for a broker. Its offsets are as old as the time between two
    calls, or older while no broker answers.
    """

    def __init__(self, connection: KafkaConnection, topic: str, partitions: int) -> None:
        # Its own client, so that requests of other threads do not delay it.
        self._topic = KafkaTopic(connection, topic)
        self._parts = [TopicPartition(topic, partition) for partition in range(partitions)]
        self._asked: list[dict[TopicPartition, Future[Any]]] = []
        self._known: list[list[int]] = []
        self._lock = threading.Lock()

    def latest(self) -> list[tuple[int, int]]:
        """Return each partition's first and end offset, and request them for the next call.

        Empty until the first answer.
        """
        with self._lock:
            if self._asked and all(
                future.done() for futures in self._asked for future in futures.values()
            ):
                self._take()
            if not self._asked:
                self._ask()
            return (
                [(low, end) for low, end in zip(*self._known, strict=True)] if self._known else []
            )

    def _ask(self) -> None:
        self._asked = [
            self._topic.admin.list_offsets(
                dict.fromkeys(self._parts, spec), request_timeout=BROKER_TIMEOUT_S
            )
            for spec in (EARLIEST, LATEST)
        ]

    def _take(self) -> None:
        asked, self._asked = self._asked, []
        try:
            found = [
                {part.partition: int(future.result().offset) for part, future in futures.items()}
                for futures in asked
            ]
            self._known = [
                [offsets[partition] for partition in sorted(offsets)] for offsets in found
            ]
        except KafkaException as error:
            log.debug("the ends of the partitions are not known: %s", error)
            self._topic.reconnect()
