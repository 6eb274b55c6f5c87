"""How far a consumer group has read: the one that is named, or the only one that has read the topics."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

from tutelage.schemas.errors import AccessDenied
from tutelage.schemas.kafka_connection import BROKER_TIMEOUT_S, KafkaConnection

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

# Of so many groups is asked what they have read, and so often as long as none of them has.
_AT_MOST = 200
_AGAIN_S = 10.0


class ReadingGroup:
    """Asks what groups have committed. `name` is the group that is shown, `others` those there are to choose from where none was named."""

    def __init__(self, connection: KafkaConnection, topics: Iterable[str], name: str | None) -> None:
        self._connection = connection
        self._topics = frozenset(topics)
        self.name = name
        self.others: list[str] = []
        self._looked_s = -_AGAIN_S
        # Kept: once collected, an admin client's futures never resolve.
        self._client: AdminClient | None = None

    def committed(self, topic: str, partitions: int) -> list[int | None]:
        """Each partition's committed offset; None where there is none, or no group.

        Raises AccessDenied or TransportError for a group that was named.
        """
        if self.name is None:
            return [None] * partitions
        wanted = [TopicPartition(topic, partition) for partition in range(partitions)]
        found = {part.partition: part.offset for part in self._asked([self.name], wanted)[self.name]}
        return [offset if (offset := found.get(partition, -1)) >= 0 else None for partition in range(partitions)]

    def look_for(self) -> None:
        """Where no group was named, see who has read the topics; the only one is shown from now on."""
        if self.name is not None or time.monotonic() - self._looked_s < _AGAIN_S:
            return
        self._looked_s = time.monotonic()
        listed = self._connection.resolved(
            self._admin().list_consumer_groups(request_timeout=BROKER_TIMEOUT_S), "looking for groups"
        )
        names = sorted(group.group_id for group in listed.valid)[:_AT_MOST]
        self.others = [
            name
            for name, parts in self._asked(names).items()
            if any(part.topic in self._topics and part.offset >= 0 for part in parts)
        ]
        if len(self.others) == 1:
            self.name = self.others.pop()

    def _asked(self, names: list[str], parts: list[TopicPartition] | None = None) -> dict[str, list[TopicPartition]]:
        # The client takes one group a call.
        futures = {
            name: self._admin().list_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(name, parts)], request_timeout=BROKER_TIMEOUT_S
            )[name]
            for name in names
        }
        found: dict[str, list[TopicPartition]] = {}
        for name, future in futures.items():
            try:
                found[name] = self._connection.resolved(future, f"asking how far group {name} has read").topic_partitions
            except AccessDenied:
                # Some broker shows groups that it says nothing of.
                if self.name is not None:
                    raise
        return found

    def _admin(self) -> AdminClient:
        # Not `or`: a client with nothing in its queue is false.
        if self._client is None:
            self._client = self._connection.admin()
        return self._client
