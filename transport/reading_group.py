"""Reads the committed offsets of a consumer group: a named one, or the only one of the topics."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Future
from functools import cached_property
from typing import TYPE_CHECKING, Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from tutelage.schemas.errors import AccessDenied, TransportError
from tutelage.transport.client_errors import DENIED, NEEDS_ACL, describe, error_code
from tutelage.transport.connection import BROKER_TIMEOUT_S, KafkaConnection

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

# The coordinator of a group is elsewhere, or not there yet.
_MOVING = frozenset(
    (
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    )
)
# At most this many groups are queried; each costs a request.
_MOST_GROUPS = 200
# Seconds between searches until a group is found; and after that, in case the student changes it.
_SEARCH_S, _FOUND_S = 10.0, 60.0


class ReadingGroup:
    """Queries a group's committed offsets: of a named group, else of the only one in the topics.

    Groups that this user may not see do not count.

    Attributes:
        name: The group that is shown; None without one.
        others: The groups to choose from, if several have read the topics.
        too_many: How many groups there are, if they are too many to query; else 0.
        trouble: Why groups could not be queried; None if they could.
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
        self._asking: tuple[str, Consumer] | None = None

    def committed(self, topic: str, partitions: int) -> list[int | None]:
        """Return each partition's committed offset; None where there is none, or no group.

        Raises:
            AccessDenied: This client may not see the group.
            TransportError: The request failed.
        """
        if self.name is None:
            return [None] * partitions
        wanted = [TopicPartition(topic, partition) for partition in range(partitions)]
        doing = f"asking how far group {self.name} has read"
        try:
            parts = self._asked(self.name, wanted)
        except KafkaException as error:
            if error_code(error) in DENIED:
                raise AccessDenied(f"{doing} failed: {describe(error)}. {NEEDS_ACL}") from error
            raise TransportError(f"{doing} failed: {describe(error)}") from error
        found = {part.partition: part.offset for part in parts if part.error is None}
        return [
            offset if (offset := found.get(partition, -1)) >= 0 else None
            for partition in range(partitions)
        ]

    def look_for(self) -> None:
        """Unless a group was named, search for the only one that has read the topics, if due."""
        if self._given or time.monotonic() < self._next_s:
            return
        try:
            readers, self.trouble = self._readers(), None
            self.name = readers[0] if len(readers) == 1 else None
            self.others = readers if len(readers) > 1 else []
        except TransportError as error:
            # The result is incomplete, so no group is chosen.
            self.trouble = str(error)
        self._next_s = time.monotonic() + (_FOUND_S if self.name is not None else _SEARCH_S)

    def _readers(self) -> list[str]:
        doing = "looking for groups"
        listed = self._connection.resolved(
            self._admin.list_consumer_groups(request_timeout=BROKER_TIMEOUT_S), doing
        )
        if listed.errors:
            raise self._connection.unavailable(doing, listed.errors[0])
        names = sorted(group.group_id for group in listed.valid)
        self.too_many = len(names) if len(names) > _MOST_GROUPS else 0
        if self.too_many:
            return []
        # The client takes one group per call.
        futures = {name: self._request_offsets(name, None) for name in names}
        found = []
        for name, future in futures.items():
            try:
                parts = self._committed_parts(name, future)
            except AccessDenied:
                continue
            if any(part.topic in self._topics and part.offset >= 0 for part in parts):
                found.append(name)
        return found

    def _request_offsets(self, name: str, parts: list[TopicPartition] | None) -> Future[Any]:
        wanted = [ConsumerGroupTopicPartitions(name, parts)]
        future: Future[Any] = self._admin.list_consumer_group_offsets(
            wanted, request_timeout=BROKER_TIMEOUT_S
        )[name]
        return future

    def _committed_parts(self, name: str, future: Future[Any]) -> list[TopicPartition]:
        parts: list[TopicPartition] = self._connection.resolved(
            future, f"asking how far group {name} has read"
        ).topic_partitions
        return parts

    def close(self) -> None:
        """Release the client. May be called twice."""
        if self._asking is not None:
            self._asking[1].close()
        self._asking = None

    def _asked(self, name: str, wanted: list[TopicPartition]) -> list[TopicPartition]:
        deadline = time.monotonic() + BROKER_TIMEOUT_S
        while True:
            try:
                return self._member(name).committed(wanted, timeout=BROKER_TIMEOUT_S)
            except KafkaException as error:
                # A cluster's first group has no coordinator for a moment, nor has one that moves.
                if error_code(error) not in _MOVING or time.monotonic() > deadline:
                    raise
            time.sleep(0.2)

    def _member(self, name: str) -> Consumer:
        """A client of the group that never joins it.

        Not the admin client: if the coordinator of the group is not there yet, or has just moved,
        librdkafka 2.16 crashes on its answer (rd_kafka_handle_OffsetFetch, which takes every client
        for a consumer).
        """
        if self._asking is None or self._asking[0] != name:
            self.close()
            self._asking = name, self._connection.consumer(name)
        return self._asking[1]

    @cached_property
    def _admin(self) -> AdminClient:
        # Cached, because an admin client's futures never resolve once it is garbage-collected.
        return self._connection.admin()
