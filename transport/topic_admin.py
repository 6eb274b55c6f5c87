"""What there is to know of a topic, and to do to it: partitions, offsets, settings, identity; made where it is missing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

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
    BrokerUnavailable,
    ConfigurationError,
    TransportError,
    WaitTimeout,
)
from tutelage.transport.connection import BROKER_TIMEOUT_S, KafkaConnection, error_code
from tutelage.transport.waiting import Wait

EARLIEST = OffsetSpec.earliest()  # type: ignore[no-untyped-call]  # the client's own gap
LATEST = OffsetSpec.latest()  # type: ignore[no-untyped-call]
_NEWEST = OffsetSpec.max_timestamp()  # type: ignore[no-untyped-call]
_AGAIN_S = 0.5
# What the broker refuses for a moment, until a partition has its leader.
_PASSING = frozenset(
    (
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        # No leaders found.
        KafkaError._NOENT,
    )
)


Answer = TypeVar("Answer")


def is_outage(error: BaseException) -> bool:
    """Whether an error says that brokers are away, or that a partition has no leader just now: it may be over soon."""
    return isinstance(error, BrokerUnavailable) or (
        isinstance(error, TransportError)
        and error_code(error.__cause__) in _PASSING - {KafkaError.UNKNOWN_TOPIC_OR_PART}
    )


def through_outages(ask: Callable[[], Answer], wait: Wait) -> Answer:
    """What a question to the brokers comes to, asked again while they are away, until the wait is over.

    Raises the question's own error where it is of another kind, and at the end of the wait.
    """
    while True:
        try:
            return ask()
        except TransportError as error:
            if not is_outage(error):
                raise
            try:
                wait.tick()
            except WaitTimeout as over:
                raise type(error)(f"{error}; {over}") from error
        time.sleep(_AGAIN_S)


def once_known(ask: Callable[[], Answer], wait: Wait) -> Answer:
    """What the brokers say of a topic that is there, asked again while it is empty: some hear of a new topic a moment after others."""
    while not (found := through_outages(ask, wait)):
        wait.tick()
        time.sleep(_AGAIN_S / 5)
    return found


class KafkaTopic:
    """One topic, asked by an admin client of its own, which is made when it is first needed. Every question has a timeout."""

    def __init__(self, connection: KafkaConnection, name: str) -> None:
        self._connection = connection
        self._name = name
        # Kept: once collected, an admin client's futures never resolve.
        self._client: AdminClient | None = None

    def __repr__(self) -> str:
        return f"KafkaTopic({self._name!r}, {self._connection.bootstrap_servers!r})"

    @property
    def bootstrap_servers(self) -> str:
        """The cluster it is of."""
        return self._connection.bootstrap_servers

    @property
    def admin(self) -> AdminClient:
        """The client that asks."""
        # Not `or`: a client with nothing in its queue is false.
        if self._client is None:
            self._client = self._connection.admin()
        return self._client

    def partitions(self, client: Consumer | Producer | None = None) -> int:
        """How many partitions the topic has, 0 if it does not exist. Raises BrokerUnavailable or AccessDenied.

        Asked through a `client`, that one knows the topic's leaders then, and begins to work at once.
        """
        metadata = self._connection.metadata(
            self.admin if client is None else client, f"looking for topic {self._name!r}"
        )
        found = metadata.topics.get(self._name)
        if found is None or found.error is not None:
            return 0
        return len(found.partitions)

    def refuse_hidden(self) -> None:
        """AccessDenied if the topic is not there because the broker shows it to others only."""
        self.identity()

    def first_offsets(self, partitions: int) -> list[int]:
        """Each partition's first offset that is still there."""
        return self.offsets(partitions, EARLIEST)

    def end_offsets(self, partitions: int, *, timeout_s: float = BROKER_TIMEOUT_S) -> list[int]:
        """Each partition's next offset to be written."""
        return self.offsets(partitions, LATEST, timeout_s)

    def last_timestamp(self, partitions: int) -> float | None:
        """When the newest record was written, in seconds since the epoch by the broker's or writer's clock; None if there is none."""
        newest = max((found.timestamp for found in self._listed(partitions, _NEWEST)), default=-1)
        return newest / 1000 if newest > 0 else None

    def offsets(
        self, partitions: int, spec: OffsetSpec, timeout_s: float = BROKER_TIMEOUT_S
    ) -> list[int]:
        """The offset that a spec asks for in each partition; -1 where there is none."""
        return [int(found.offset) for found in self._listed(partitions, spec, timeout_s)]

    def _listed(
        self, partitions: int, spec: OffsetSpec, timeout_s: float = BROKER_TIMEOUT_S
    ) -> list[Any]:
        """What the brokers list of each partition: asked for all at once, and again while leaders are being chosen.

        Not through a consumer: behind a fetch on its connection, each question would wait for that to end.
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
                    if error_code(error.__cause__) not in _PASSING or time.monotonic() > deadline:
                        raise
            if len(found) == partitions:
                return [found[partition] for partition in range(partitions)]
            self.begin_anew()
            time.sleep(0.1)

    def begin_anew(self) -> None:
        """Ask by a new client from now on: one that knew a broker before it started again asks it about a time that is over, for minutes."""
        self._client = None

    def create(
        self, partitions: int, *, replication: int = -1, settings: Mapping[str, str] | None = None
    ) -> None:
        """Create the topic and wait until its partitions have leaders; does nothing if it exists."""
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
        """The topic's settings, the broker's defaults among them. AccessDenied without DescribeConfigs on it."""
        resource = ConfigResource(ConfigResource.Type.TOPIC, self._name)
        future = self.admin.describe_configs([resource], request_timeout=BROKER_TIMEOUT_S)[resource]
        entries = self._connection.resolved(future, f"reading the settings of topic {self._name!r}")
        return {name: str(entry.value) for name, entry in entries.items()}

    def replication(self) -> int | None:
        """How many brokers have each partition, of all partitions the fewest; None where the broker that is asked has not heard of it yet."""
        found = self._connection.metadata(
            self.admin, f"looking for topic {self._name!r}"
        ).topics.get(self._name)
        return (
            min((len(part.replicas) for part in found.partitions.values()), default=None)
            if found is not None
            else None
        )

    def brokers(self) -> int:
        """How many brokers the cluster has now."""
        return len(self._connection.metadata(self.admin, "looking for the brokers").brokers)

    def identity(self) -> dict[str, str]:
        """The ids of cluster and topic; empty if there is no such topic."""
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
        """Ask for the topic's description; `topic_id` reads the answer."""
        return self.admin.describe_topics(
            TopicCollection([self._name]), request_timeout=BROKER_TIMEOUT_S
        )[self._name]

    def topic_id(self, described: Future[Any]) -> str:
        """The topic's id in a description, which is waited for; empty if there is no such topic. TransportError if no broker says."""
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
        """ConfigurationError if the topic's cleanup.policy has come to remove records; nothing where this client may not look."""
        try:
            policy = self.settings().get("cleanup.policy", "")
        except TransportError:
            return
        if "compact" in policy:
            raise ConfigurationError(
                f"topic {self._name} has cleanup.policy={policy}: compaction refuses and removes its records; set it to delete, and let the "
                "teacher write to a new topic"
            )
