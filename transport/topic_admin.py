"""Inspects and creates topics: partitions, offsets, settings, identity. Transfers no records."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec

from tutelage.schemas.errors import (
    AccessDenied,
    ConfigurationError,
    TransportError,
)
from tutelage.transport.client_errors import error_code
from tutelage.transport.connection import BROKER_TIMEOUT_S, KafkaConnection
from tutelage.transport.outages import TRANSIENT

EARLIEST = OffsetSpec.earliest()  # type: ignore[no-untyped-call]  # the client's own gap
LATEST = OffsetSpec.latest()  # type: ignore[no-untyped-call]
_NEWEST = OffsetSpec.max_timestamp()  # type: ignore[no-untyped-call]


class KafkaTopic:
    """One topic, through its own admin client, which is opened by the first request.

    Guarantee: every request has a timeout.
    """

    def __init__(self, connection: KafkaConnection, name: str) -> None:
        self._connection = connection
        self._name = name
        # Kept, because an admin client's futures never resolve once it is garbage-collected.
        self._client: AdminClient | None = None

    def __repr__(self) -> str:
        return f"KafkaTopic({self._name!r}, {self._connection.bootstrap_servers!r})"

    @property
    def bootstrap_servers(self) -> str:
        """The bootstrap servers of its cluster."""
        return self._connection.bootstrap_servers

    @property
    def admin(self) -> AdminClient:
        """The admin client."""
        # Not `or`: a client with an empty queue is falsy.
        if self._client is None:
            self._client = self._connection.admin()
        return self._client

    def partitions(self, client: Consumer | Producer | None = None) -> int:
        """Return the number of partitions, 0 if the topic does not exist.

        Args:
            client: Sends the request instead of the admin client. It then knows the topic's leaders
                and starts to work at once.

        Raises:
            BrokerUnavailable: No broker answered.
            AccessDenied: The brokers reject this client.
        """
        metadata = self._connection.metadata(
            self.admin if client is None else client, f"looking for topic {self._name!r}"
        )
        found = metadata.topics.get(self._name)
        if found is None or found.error is not None:
            return 0
        return len(found.partitions)

    def check_visible(self) -> None:
        """Raise AccessDenied if a topic that seems missing exists, but not for this client."""
        self.identity()

    def first_offsets(self, partitions: int) -> list[int]:
        """Return the first offset that each partition still has."""
        return self.offsets(partitions, EARLIEST)

    def end_offsets(self, partitions: int, *, timeout_s: float = BROKER_TIMEOUT_S) -> list[int]:
        """Return the next offset to be written in each partition."""
        return self.offsets(partitions, LATEST, timeout_s)

    def last_timestamp(self, partitions: int) -> float | None:
        """Return the newest record's time in seconds since the epoch; None without records.

        By the broker's clock or the writer's.
        """
        newest = max((found.timestamp for found in self._listed(partitions, _NEWEST)), default=-1)
        return newest / 1000 if newest > 0 else None

    def offsets(
        self, partitions: int, spec: OffsetSpec, timeout_s: float = BROKER_TIMEOUT_S
    ) -> list[int]:
        """Return the offset that `spec` selects in each partition; -1 where there is none."""
        return [int(found.offset) for found in self._listed(partitions, spec, timeout_s)]

    def _listed(
        self, partitions: int, spec: OffsetSpec, timeout_s: float = BROKER_TIMEOUT_S
    ) -> list[Any]:
        """List the offsets of all partitions at once, and retry during leader elections.

        Not through a consumer: there each request would wait for the fetch before it to end.
        """
        deadline = time.monotonic() + timeout_s
        found: dict[int, Any] = {}
        while True:
            wanted = {
                TopicPartition(self._name, partition): spec
                for partition in range(partitions)
                if partition not in found
            }
            left_s = max(0.1, deadline - time.monotonic())
            for part, future in self.admin.list_offsets(wanted, request_timeout=left_s).items():
                doing = f"looking at topic {self._name}, partition {part.partition}"
                try:
                    found[part.partition] = self._connection.resolved(future, doing)
                except TransportError as error:
                    if error_code(error.__cause__) not in TRANSIENT or time.monotonic() > deadline:
                        raise
            if len(found) == partitions:
                return [found[partition] for partition in range(partitions)]
            self.reconnect()
            time.sleep(0.1)

    def reconnect(self) -> None:
        """Use a new admin client from now on.

        After a broker has restarted, an existing client keeps stale metadata for minutes.
        """
        self._client = None

    def create(
        self, partitions: int, *, replication: int = -1, settings: Mapping[str, str] | None = None
    ) -> None:
        """Create the topic, unless it exists, and wait until its partitions have leaders."""
        doing = f"creating topic {self._name!r}"
        new = NewTopic(
            self._name,
            num_partitions=partitions,
            replication_factor=replication,
            config=dict(settings or {}),
        )
        try:
            self._connection.resolved(
                self.admin.create_topics([new], request_timeout=BROKER_TIMEOUT_S)[self._name], doing
            )
        except TransportError as error:
            if error_code(error.__cause__) != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
        deadline = time.monotonic() + BROKER_TIMEOUT_S
        while True:
            found = self._connection.metadata(self.admin, doing).topics.get(self._name)
            if (
                found is not None
                and found.partitions
                and all(part.leader >= 0 for part in found.partitions.values())
            ):
                return
            if time.monotonic() > deadline:
                raise self._connection.unavailable(
                    f"waiting for leaders of the new topic {self._name!r}"
                )
            time.sleep(0.05)

    def settings(self) -> dict[str, str]:
        """Return the topic's settings, including the broker's defaults.

        Raises:
            AccessDenied: This client has no DescribeConfigs on the topic.
        """
        resource = ConfigResource(ConfigResource.Type.TOPIC, self._name)
        future = self.admin.describe_configs([resource], request_timeout=BROKER_TIMEOUT_S)[resource]
        entries = self._connection.resolved(future, f"reading the settings of topic {self._name!r}")
        return {name: str(entry.value) for name, entry in entries.items()}

    def replication(self) -> int | None:
        """Return the smallest number of replicas of a partition.

        None if the broker that answers does not know the topic yet.
        """
        found = self._connection.metadata(
            self.admin, f"looking for topic {self._name!r}"
        ).topics.get(self._name)
        return (
            min((len(part.replicas) for part in found.partitions.values()), default=None)
            if found is not None
            else None
        )

    def brokers(self) -> int:
        """Return the number of brokers in the cluster."""
        return len(self._connection.metadata(self.admin, "looking for the brokers").brokers)

    def identity(self) -> dict[str, str]:
        """Return the ids of cluster and topic; empty if there is no such topic."""
        topic_id = self.topic_id(self.described())
        if not topic_id:
            return {}
        try:
            cluster = self.admin.list_topics(timeout=BROKER_TIMEOUT_S).cluster_id
        except KafkaException as error:
            raise self._connection.unavailable(
                f"asking for the identity of topic {self._name}", error
            ) from error
        return {"cluster_id": str(cluster), "topic_id": topic_id}

    def described(self) -> Future[Any]:
        """Request the topic's description; `topic_id` reads the answer."""
        return self.admin.describe_topics(
            TopicCollection([self._name]), request_timeout=BROKER_TIMEOUT_S
        )[self._name]

    def topic_id(self, described: Future[Any]) -> str:
        """Wait for a description and return the topic's id; empty if there is no such topic.

        Raises:
            TransportError: No broker answered, or the request failed.
        """
        try:
            answer = self._connection.resolved(
                described, f"asking for the identity of topic {self._name}"
            )
        except AccessDenied:
            raise
        except TransportError as error:
            if error_code(error.__cause__) == KafkaError.UNKNOWN_TOPIC_OR_PART:
                return ""
            raise
        return str(answer.topic_id)

    def check_not_compacted(self) -> None:
        """Raise ConfigurationError if the topic is compacted by now.

        Does nothing if this client cannot read the settings.
        """
        try:
            policy = self.settings().get("cleanup.policy", "")
        except TransportError:
            return
        if "compact" in policy:
            raise ConfigurationError(
                f"topic {self._name} has cleanup.policy={policy}: compaction rejects and removes "
                "its records; set it to "
                "delete, and have the teacher write to a new topic"
            )
