"""Reads the committed offsets of a consumer group: a named one, or the only one of the topics."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

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
# At most this many groups are queried, so many at a time; each costs a client and three requests.
_MOST_GROUPS, _AT_ONCE = 200, 8
# Seconds between searches until a group is found; and after that, in case the student changes it.
_SEARCH_S, _FOUND_S = 10.0, 60.0


class ReadingGroup:
    """Queries a group's committed offsets: of a named group, else of the only one in the topics.

    The queries go through consumers that never join the group. The admin client's
    `list_consumer_group_offsets` is not used: if a group's coordinator is not there yet, or has
    just moved, librdkafka 2.16 crashes on the answer (`rd_kafka_handle_OffsetFetch` takes every
    client for a consumer).

    Groups that this user may not see do not count. Close it.

    Attributes:
        name: The group that is shown; None without one.
        others: The groups to choose from, if several have read the topics.
        too_many: How many groups there are, if they are too many to query; else 0.
        trouble: Why groups could not be queried; None if they could.
    """

    def __init__(self, connection: KafkaConnection, name: str | None) -> None:
        self._connection = connection
        self._given = name is not None
        self.name = name
        self.others: list[str] = []
        self.too_many = 0
        self.trouble: str | None = None
        self._next_s = 0.0
        self._client: tuple[str, Consumer] | None = None

    def committed(self, topic: str, partitions: int) -> list[int | None]:
        """Return each partition's committed offset; None where there is none, or no group.

        Raises:
            AccessDenied: This client may not see the group.
            TransportError: The request failed.
        """
        if self.name is None:
            return [None] * partitions
        if self._client is None or self._client[0] != self.name:
            self.close()
            self._client = self.name, self._connection.consumer(self.name)
        return _committed(self._client[1], self.name, _partitions({topic: partitions}))

    def look_for(self, topics: Mapping[str, int]) -> None:
        """Unless a group was named, search for the only one that has read the topics, if due.

        Args:
            topics: Topic -> its number of partitions.
        """
        if self._given or time.monotonic() < self._next_s:
            return
        try:
            readers, self.trouble = self._readers(_partitions(topics)), None
            self.name = readers[0] if len(readers) == 1 else None
            self.others = readers if len(readers) > 1 else []
        except TransportError as error:
            # The result is incomplete, so no group is chosen.
            self.trouble = str(error)
        self._next_s = time.monotonic() + (_FOUND_S if self.name is not None else _SEARCH_S)

    def close(self) -> None:
        """Release the client. May be called twice."""
        if self._client is not None:
            self._client[1].close()
        self._client = None

    def _readers(self, parts: list[TopicPartition]) -> list[str]:
        doing = "looking for groups"
        listed = self._connection.resolved(
            self._admin.list_consumer_groups(request_timeout=BROKER_TIMEOUT_S), doing
        )
        if listed.errors:
            raise self._connection.unavailable(doing, listed.errors[0])
        names = sorted(group.group_id for group in listed.valid if group.group_id)
        self.too_many = len(names) if len(names) > _MOST_GROUPS else 0
        if self.too_many:
            return []
        with ThreadPoolExecutor(_AT_ONCE, "tutelage-groups") as pool:
            reading = pool.map(lambda name: self._has_read(name, parts), names)
            return [name for name, has_read in zip(names, reading, strict=True) if has_read]

    def _has_read(self, name: str, parts: list[TopicPartition]) -> bool:
        client = self._connection.consumer(name)
        try:
            return any(offset is not None for offset in _committed(client, name, parts))
        except AccessDenied:
            return False
        finally:
            client.close()

    @cached_property
    def _admin(self) -> AdminClient:
        # Cached, because an admin client's futures never resolve once it is garbage-collected.
        return self._connection.admin()


def _partitions(topics: Mapping[str, int]) -> list[TopicPartition]:
    return [TopicPartition(topic, part) for topic, count in topics.items() for part in range(count)]


def _committed(client: Consumer, name: str, wanted: list[TopicPartition]) -> list[int | None]:
    """The committed offsets of the client's group, in the order of the partitions."""
    deadline = time.monotonic() + BROKER_TIMEOUT_S
    while True:
        try:
            parts = client.committed(wanted, timeout=BROKER_TIMEOUT_S)
            break
        except KafkaException as error:
            # A cluster's first group has no coordinator for a moment, nor has one that moves.
            if error_code(error) not in _MOVING or time.monotonic() > deadline:
                raise _failed(name, error) from error
        time.sleep(0.2)
    found = {(part.topic, part.partition): part.offset for part in parts if part.error is None}
    offsets = [found.get((part.topic, part.partition), -1) for part in wanted]
    return [offset if offset >= 0 else None for offset in offsets]


def _failed(name: str, error: KafkaException) -> TransportError:
    doing = f"asking how far group {name} has read"
    if error_code(error) in DENIED:
        return AccessDenied(f"{doing} failed: {describe(error)}. {NEEDS_ACL}")
    return TransportError(f"{doing} failed: {describe(error)}")
