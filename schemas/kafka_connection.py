"""How both sides reach Kafka: the address, the registry, raw client options; errors translated, noise kept quiet.

One of the `kafka_*` files, the only ones that know the client. Opens nothing by itself; picklable as long as the registry is.
"""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec  # type: ignore[attr-defined]  # exported without saying so

from tutelage.schemas.errors import BrokerUnavailable, ConfigurationError, TransportError
from tutelage.schemas.registry import HttpRegistry, Registry

log = logging.getLogger(__name__)
# What librdkafka itself says (20 lines a second while a broker is away) is for those who ask for it.
client_log = logging.getLogger("tutelage.kafka_client")
client_log.addFilter(lambda _: client_log.isEnabledFor(logging.DEBUG))

# A forked child must never free a client of its parent's: librdkafka would wait for threads the child does not have. Frozen,
# whatever the parent left for the garbage collector stays uncollected in the child.
os.register_at_fork(after_in_child=gc.freeze)

DEFAULT_BOOTSTRAP = "localhost:9092"
# Where `tutelage stack up` puts it; Confluent's own registry would be http://localhost:8081.
DEFAULT_REGISTRY = "http://localhost:8081/apis/ccompat/v7"
BROKER_TIMEOUT_S = 10.0
# Between our payload and the limit of the topic: record batch framing, headers, growth of either.
MESSAGE_HEADROOM_BYTES = 64 << 10

_EARLIEST = OffsetSpec.earliest()  # type: ignore[no-untyped-call]  # the client's own gap
_LATEST = OffsetSpec.latest()  # type: ignore[no-untyped-call]
_PASSING = frozenset(
    (
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._TRANSPORT,
    )
)

_PRODUCER_DEFAULTS: dict[str, object] = {
    "enable.idempotence": True,
    "acks": "all",
    # One request in flight a broker was 1.4 times as fast as five under idempotence (study: performance).
    "max.in.flight.requests.per.connection": 1,
    "linger.ms": 1,
    "batch.size": 1048576,
    "queue.buffering.max.kbytes": 65536,
    # The topic's limit is the one that counts, and we check it ourselves with a better message.
    "message.max.bytes": 1000000000,
    # Never give a message up: a gap. The sink has its own watchdog.
    "message.timeout.ms": 0,
}
# Of one partition at once: the fastest for few of them (study: performance); for many, together no more than four such.
_FETCH_BYTES = 8 << 20
# That all brokers are away is said at once, and then only now and then; the client says it twenty times a second.
_SAID_EVERY_S = 30.0
_CONSUMER_DEFAULTS: dict[str, object] = {
    "enable.auto.commit": False,
    "auto.offset.reset": "error",
    "enable.partition.eof": True,
    "allow.auto.create.topics": False,
    # The default of 1000 ms stalls a full queue for a second each time (librdkafka#2879).
    "fetch.queue.backoff.ms": 2,
    "fetch.wait.max.ms": 100,
    "fetch.max.bytes": 67108864,
    "queued.max.messages.kbytes": 65536,
    "queued.min.messages": 100000,
    "receive.message.max.bytes": 1073741824,
    "check.crcs": True,
}


class KafkaConnection:
    """A cluster and its registry, as an address and options. `options` go to librdkafka untouched, over our defaults."""

    def __init__(
        self,
        bootstrap_servers: str = DEFAULT_BOOTSTRAP,
        *,
        registry: Registry | str = DEFAULT_REGISTRY,
        options: Mapping[str, object] | None = None,
    ) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.registry: Registry = HttpRegistry(registry) if isinstance(registry, str) else registry
        self._options = dict(options or {})
        self._last_error = ""
        self._said_s = -_SAID_EVERY_S

    def __repr__(self) -> str:
        return f"KafkaConnection({self.bootstrap_servers!r}, registry={self.registry!r})"

    def producer(self, settings: Mapping[str, object] | None = None) -> Producer:
        """A new idempotent producer; `settings` go over our defaults, the user's options over both."""
        client: Producer = self._client(Producer, {**_PRODUCER_DEFAULTS, **(settings or {})})
        return client

    def consumer(self, group: str | None = None, *, partitions: int = 1) -> Consumer:
        """A new consumer, to be assigned so many partitions by hand. The group only matters where offsets are committed."""
        fetch_bytes = max(1 << 20, min(_FETCH_BYTES, 4 * _FETCH_BYTES // partitions))
        settings = {"fetch.message.max.bytes": fetch_bytes, "group.id": group or "tutelage"}
        client: Consumer = self._client(Consumer, {**_CONSUMER_DEFAULTS, **settings})
        return client

    def admin(self) -> AdminClient:
        """A new admin client. Keep a reference: once collected, its futures never resolve."""
        client: AdminClient = self._client(AdminClient, {})
        return client

    def _client(self, kind: Callable[..., Any], defaults: Mapping[str, object]) -> Any:
        config = {
            "bootstrap.servers": self.bootstrap_servers,
            "client.id": "tutelage",
            **defaults,
            **self._options,
            "error_cb": self._remember,
        }
        try:
            return kind(config, logger=client_log)
        except (KafkaException, ValueError, TypeError) as error:
            raise ConfigurationError(f"the Kafka client refuses its options: {describe(error)}") from error

    def _remember(self, error: KafkaError) -> None:
        self._last_error = error.str()
        client_log.debug("client error: %s", error)
        now = time.monotonic()
        if error.code() == KafkaError._ALL_BROKERS_DOWN and now - self._said_s > _SAID_EVERY_S:
            self._said_s = now
            log.warning("waiting for a broker of %s: none answers (%s)", self.bootstrap_servers, error.str())

    def unavailable(self, doing: str, error: Exception | None = None) -> BrokerUnavailable:
        """The error for a cluster that does not answer, with what the client last saw of it."""
        cause = self._last_error or (describe(error) if error else "no answer")
        return BrokerUnavailable(
            f"no Kafka broker answered at {self.bootstrap_servers} within {BROKER_TIMEOUT_S:.0f} s while {doing} ({cause}); "
            "is it running, and is this its address? (`tutelage stack up` starts one here)"
        )

    def topic_partitions(self, client: AdminClient | Consumer | Producer, topic: str) -> int:
        """How many partitions the topic has, 0 if it does not exist; BrokerUnavailable if nobody answers."""
        try:
            # All topics: asking for one by name could create it, and has the client complain where it is missing.
            found = client.list_topics(timeout=BROKER_TIMEOUT_S).topics.get(topic)
        except KafkaException as error:
            if not isinstance(client, Consumer):
                # Serves the callback that says why.
                client.poll(0)
            raise self.unavailable(f"looking for topic {topic!r}", error) from error
        return len(found.partitions) if found is not None and found.error is None else 0

    def first_offsets(self, admin: AdminClient, topic: str, partitions: int) -> list[int]:
        """Each partition's first offset that is still there."""
        return self._offsets(admin, topic, partitions, _EARLIEST)

    def end_offsets(self, admin: AdminClient, topic: str, partitions: int) -> list[int]:
        """Each partition's next offset to be written."""
        return self._offsets(admin, topic, partitions, _LATEST)

    def _offsets(self, admin: AdminClient, topic: str, partitions: int, spec: OffsetSpec) -> list[int]:
        """Asked for all partitions at once, and again while leaders are being chosen.

        Not through a consumer: behind a fetch on its connection, each question would wait for that to end.
        """
        deadline = time.monotonic() + BROKER_TIMEOUT_S
        found: dict[int, int] = {}
        while True:
            wanted = {TopicPartition(topic, partition): spec for partition in range(partitions) if partition not in found}
            for part, future in admin.list_offsets(wanted, request_timeout=BROKER_TIMEOUT_S).items():
                try:
                    found[part.partition] = int(
                        self.resolved(future, f"looking at topic {topic}, partition {part.partition}").offset
                    )
                except TransportError as error:
                    if not _passes(error.__cause__) or time.monotonic() > deadline:
                        raise
            if len(found) == partitions:
                return [found[partition] for partition in range(partitions)]
            time.sleep(0.1)

    def create_topic(self, topic: str, partitions: int, *, replication: int, settings: Mapping[str, str]) -> None:
        """Create a topic and wait until its partitions have leaders; does nothing if it exists."""
        admin = self.admin()
        new = NewTopic(topic, num_partitions=partitions, replication_factor=replication, config=dict(settings))
        try:
            self.resolved(admin.create_topics([new], request_timeout=BROKER_TIMEOUT_S)[topic], f"creating topic {topic!r}")
        except TransportError as error:
            cause = error.__cause__
            if not isinstance(cause, KafkaException) or cause.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
        deadline = time.monotonic() + BROKER_TIMEOUT_S
        while True:
            try:
                metadata = admin.list_topics(timeout=BROKER_TIMEOUT_S).topics.get(topic)
            except KafkaException as error:
                raise self.unavailable(f"creating topic {topic!r}", error) from error
            if metadata is not None and metadata.partitions and all(p.leader >= 0 for p in metadata.partitions.values()):
                return
            if time.monotonic() > deadline:
                raise self.unavailable(f"waiting for leaders of the new topic {topic!r}")
            time.sleep(0.05)

    def topic_setting(self, topic: str, name: str) -> str:
        """The value of a topic's setting."""
        admin = self.admin()
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        future = admin.describe_configs([resource], request_timeout=BROKER_TIMEOUT_S)[resource]
        return str(self.resolved(future, f"reading the settings of topic {topic!r}")[name].value)

    def resolved(self, future: Future[Any], doing: str) -> Any:
        """A future's result; broker errors and silence as TransportError."""
        try:
            return future.result(timeout=BROKER_TIMEOUT_S + 5)
        except FutureTimeout as error:
            raise self.unavailable(doing) from error
        except KafkaException as error:
            raise TransportError(f"{doing} failed: {describe(error)}") from error


def _passes(error: BaseException | None) -> bool:
    """Whether what the broker refused is granted a moment later, once a partition has its leader."""
    return isinstance(error, KafkaException) and error.args[0].code() in _PASSING


def describe(error: BaseException) -> str:
    """A Kafka error in words, without the C struct around it."""
    inner = error.args[0] if isinstance(error, KafkaException) and error.args else error
    return str(inner.str()) if isinstance(inner, KafkaError) else str(inner)
