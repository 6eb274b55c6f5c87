"""How far a consumer group has read: the one that is named, or the only one that has read the topics."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Future
from functools import cached_property
from typing import TYPE_CHECKING, Any

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

from tutelage.schemas.errors import AccessDenied, TransportError
from tutelage.transport.connection import BROKER_TIMEOUT_S, KafkaConnection

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

# Of no more groups is asked what they have read: each is a request.
_AT_MOST = 200
# So often as long as none is found; and then, should the student have started under another name.
_AGAIN_S, _STILL_S = 10.0, 60.0


class ReadingGroup:
    """Asks what groups have committed: the one that was named, else the only one there is.

    `name` is the group that is shown; `others` are those to choose from where there are several, `too_many` is how many groups there are if
    they were not looked through, `trouble` why they could not be. Groups that this user may not see are none.
    """

    def __init__(
        self, connection: KafkaConnection, topics: Iterable[str], name: str | None
    ) -> None:
        self._connection = connection
        self._topics = frozenset(topics)
        self._given = name is not None
        self.name = name
        self.others: list[str] = []
        self.too_many = 0
        self.trouble: str | None = None
        self._next_s = 0.0

    def committed(self, topic: str, partitions: int) -> list[int | None]:
        """Each partition's committed offset; None where there is none, or no group. Raises AccessDenied or TransportError."""
        if self.name is None:
            return [None] * partitions
        wanted = [TopicPartition(topic, partition) for partition in range(partitions)]
        found = {
            part.partition: part.offset
            for part in self._answer(self.name, self._asked(self.name, wanted))
        }
        return [
            offset if (offset := found.get(partition, -1)) >= 0 else None
            for partition in range(partitions)
        ]

    def look_for(self) -> None:
        """Where no group was named, see now and then who has read the topics; the only one is shown from then on."""
        if self._given or time.monotonic() < self._next_s:
            return
        try:
            readers, self.trouble = self._readers(), None
            self.name = readers[0] if len(readers) == 1 else None
            self.others = readers if len(readers) > 1 else []
        except TransportError as error:
            # Who is not seen may be the one: none is chosen by what is known of the others.
            self.trouble = str(error)
        self._next_s = time.monotonic() + (_STILL_S if self.name is not None else _AGAIN_S)

    def _readers(self) -> list[str]:
        doing = "looking for groups"
        listed = self._connection.resolved(
            self._admin.list_consumer_groups(request_timeout=BROKER_TIMEOUT_S), doing
        )
        if listed.errors:
            raise self._connection.unavailable(doing, listed.errors[0])
        names = sorted(group.group_id for group in listed.valid)
        self.too_many = len(names) if len(names) > _AT_MOST else 0
        if self.too_many:
            return []
        # The client takes one group a call.
        futures = {name: self._asked(name, None) for name in names}
        found = []
        for name, future in futures.items():
            try:
                parts = self._answer(name, future)
            except AccessDenied:
                continue
            if any(part.topic in self._topics and part.offset >= 0 for part in parts):
                found.append(name)
        return found

    def _asked(self, name: str, parts: list[TopicPartition] | None) -> Future[Any]:
        wanted = [ConsumerGroupTopicPartitions(name, parts)]
        future: Future[Any] = self._admin.list_consumer_group_offsets(
            wanted, request_timeout=BROKER_TIMEOUT_S
        )[name]
        return future

    def _answer(self, name: str, future: Future[Any]) -> list[TopicPartition]:
        parts: list[TopicPartition] = self._connection.resolved(
            future, f"asking how far group {name} has read"
        ).topic_partitions
        return parts

    @cached_property
    def _admin(self) -> AdminClient:
        # Kept: once collected, an admin client's futures never resolve.
        return self._connection.admin()
