"""How both sides reach Kafka: the address, the registry, raw client options; errors translated, noise kept quiet.

One of the `kafka_*` files, the only ones that know the client. Opens nothing by itself; picklable as long as the registry is.
"""

from __future__ import annotations

import gc
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from importlib.metadata import version
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, ThrottleEvent
from confluent_kafka.admin import AdminClient

from tutelage.schemas.arguments import check_options, check_text
from tutelage.schemas.errors import (
    AccessDenied,
    BrokerUnavailable,
    ConfigurationError,
    TransportError,
)
from tutelage.schemas.printable import printable
from tutelage.transport.addresses import Address, bootstrap_address
from tutelage.transport.exposure import kafka_exposures, warn_once
from tutelage.transport.hiding import hiding, secrets_in
from tutelage.transport.registry import Registry, checked_registry
from tutelage.transport.secretless import Secretless, public_settings
from tutelage.transport.waiting import RateLimit

log = logging.getLogger(__name__)
# What librdkafka itself says (20 lines a second while a broker is away) is for those who ask for it.
client_log = logging.getLogger("tutelage.kafka_client")
client_log.addFilter(lambda _: client_log.isEnabledFor(logging.DEBUG))

# A forked child must never free a client of its parent's: librdkafka would wait for threads the child does not have. Frozen,
# whatever the parent left for the garbage collector stays uncollected in the child.
os.register_at_fork(after_in_child=gc.freeze)

BROKER_TIMEOUT_S = 10.0
# Between our payload and the limit of the topic: record batch framing, headers, growth of either.
MESSAGE_HEADROOM_BYTES = 64 << 10

# One try of several within BROKER_TIMEOUT_S, between which the client says what went wrong.
_ATTEMPT_S = 1.0
# Once may be an accident: a broker that just goes down. Twice in a row it means us.
_TURNED_AWAY_TIMES = 2
# Not all is tried again so soon: a token that is refused is asked for once in a while.
_TURNED_AWAY_FOR_S = 3.0
_TURNING_AWAY = frozenset(
    (KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED)
)
# How the client says the same of what has another code: an alert of TLS.
_TLS_ALERT = "SSL routines"
# How it says, to its log alone, that a broker hangs up before its first answer. It may be about to start or to stop, behind a proxy, or
# expect another protocol: it has a little longer to show which.
_HANGS_UP = "/bootstrap: Disconnected"
_HANGS_UP_FOR_S = 4.0
#: What a broker says to a client that it knows, and that may not do this.
DENIED = frozenset(
    (
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    )
)
NEEDS_ACL = "Its user needs an ACL for that: docs/security.md lists them"

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
# What the client names where a response is larger than it takes; it asks again and again then.
_TOO_LARGE = "receive.message.max.bytes"
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
    # Nobody joins a group here; but for so long, and no less is allowed, a commit waits for a coordinator that may never be had.
    "session.timeout.ms": 6000,
    "fetch.max.bytes": 67108864,
    "queued.max.messages.kbytes": 65536,
    "queued.min.messages": 100000,
    # A response, and what a zstandard batch may be unpacked to: the client has no other limit for that, and triples its buffer until a
    # batch fits (librdkafka, rdkafka_zstd.c). Brokers take no batch of more than 100 MiB unless told to (socket.request.max.bytes).
    "receive.message.max.bytes": 335544320,
    "check.crcs": True,
}


class _ClientLog:
    """Takes what a client logs: for those who asked for it, and for the connection, which learns from it why nobody answers."""

    def __init__(self, hear: Callable[[str], None]) -> None:
        self._hear = hear

    def log(self, level: int, message: str, *args: object) -> None:
        """One line, as the client calls it."""
        self._hear(message % args if args else message)
        client_log.log(level, message, *args)


class KafkaConnection(Secretless):
    """A cluster and its registry, as an address and options. `options` go to librdkafka untouched, over our defaults."""

    def __init__(
        self,
        bootstrap_servers: str | Sequence[str] | None = None,
        *,
        registry: Registry | str | None = None,
        options: Mapping[str, object] | None = None,
        client_id: str = "tutelage",
    ) -> None:
        self._options = check_options("options", options)
        self._address = _address(bootstrap_servers, self._options)
        self.bootstrap_servers = str(self._address)
        self.client_id = client_id
        self.registry: Registry = checked_registry(registry)
        self._last_error = ""
        self._turned_away: deque[str] = deque(maxlen=4)
        self._hung_up = 0
        self._all_down, self._slowed, self._too_large = (RateLimit(_SAID_EVERY_S) for _ in range(3))

    @property
    def where(self) -> str:
        """The brokers' address and who named it, for errors."""
        return self._address.with_origin

    def __repr__(self) -> str:
        return f"KafkaConnection({self.bootstrap_servers!r}, registry={self.registry!r})"

    def _public_state(self, state: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        options, withheld = public_settings(self._options)
        return {**state, "_options": options}, withheld

    def producer(self, settings: Mapping[str, object] | None = None) -> Producer:
        """A new idempotent producer; `settings` go over our defaults, the user's options over both."""
        client: Producer = self._client(Producer, {**_PRODUCER_DEFAULTS, **(settings or {})})
        return client

    def consumer(
        self,
        group: str | None = None,
        *,
        partitions: int = 1,
        settings: Mapping[str, object] | None = None,
    ) -> Consumer:
        """A new consumer, to be assigned so many partitions by hand. The group only matters where offsets are committed."""
        fetch_bytes = max(1 << 20, min(_FETCH_BYTES, 4 * _FETCH_BYTES // partitions))
        ours = {
            "fetch.message.max.bytes": fetch_bytes,
            "group.id": group or "tutelage",
            **(settings or {}),
        }
        client: Consumer = self._client(Consumer, {**_CONSUMER_DEFAULTS, **ours})
        return client

    def admin(self) -> AdminClient:
        """A new admin client. Keep a reference: once collected, its futures never resolve."""
        client: AdminClient = self._client(AdminClient, {})
        return client

    def _client(self, kind: Callable[..., Any], defaults: Mapping[str, object]) -> Any:
        self._refuse_withheld()
        hiding.add(secrets_in(self._options))
        warn_once(kafka_exposures(self.bootstrap_servers, self._options))
        config = {
            "bootstrap.servers": self.bootstrap_servers,
            # What an operator sees in request logs, quotas and the brokers' client metrics.
            "client.id": self.client_id,
            "client.software.name": "tutelage",
            "client.software.version": version("tutelage"),
            "throttle_cb": self._held_back,
            **defaults,
            **self._options,
            "error_cb": self._remember,
        }
        try:
            return kind(config, logger=_ClientLog(self._hear))
        except (KafkaException, ValueError, TypeError) as error:
            raise ConfigurationError(
                f"the Kafka client refuses its options: {hiding.hidden(describe(error))}"
            ) from hiding.cause(error)

    def _held_back(self, event: ThrottleEvent) -> None:
        """A quota is kept by waiting: nothing is lost, and whoever wonders why it is slow should know."""
        if event.throttle_time > 0 and self._slowed.due():
            log.warning(
                "a quota holds client %s back: %s lets it go on after %.1f s",
                self.client_id,
                printable(event.broker_name),
                event.throttle_time,
            )

    def _remember(self, error: KafkaError) -> None:
        client_log.debug("client error: %s", error)
        if error.code() != KafkaError._ALL_BROKERS_DOWN or not self._last_error:
            # That all are down says less than why each of them is.
            self._last_error = error.str()
        if error.code() in _TURNING_AWAY or _TLS_ALERT in error.str():
            self._turned_away.append(error.str())
        if _TOO_LARGE in error.str() and self._too_large.due():
            log.warning(
                "%s: what was fetched is too large for this client: raise %s, with -X or in options",
                error.str(),
                _TOO_LARGE,
            )
        if error.code() == KafkaError._ALL_BROKERS_DOWN and self._all_down.due():
            log.warning(
                "waiting for a broker of %s: none answers (%s)", self.where, describe(error)
            )

    def _hear(self, line: str) -> None:
        if _HANGS_UP in line:
            self._hung_up += 1

    def unavailable(self, doing: str, error: Exception | None = None) -> BrokerUnavailable:
        """The error for a cluster that does not answer, with what the client last saw of it."""
        cause = self._last_error or (describe(error) if error else "no answer")
        return BrokerUnavailable(
            f"no Kafka broker answered at {self.where} within {BROKER_TIMEOUT_S:.0f} s while {doing} ({cause}); "
            "is it running, and is this its address? (`tutelage stack up` starts one here)"
        )

    def metadata(self, client: AdminClient | Consumer | Producer, doing: str) -> Any:
        """The cluster's metadata: all topics, because asking for one by name could create it, and has the client complain where it is missing.

        BrokerUnavailable if nobody answers; AccessDenied, without waiting to the end, where the brokers turn this client away.
        """
        began = time.monotonic()
        self._turned_away.clear()
        self._hung_up = 0
        while True:
            try:
                found = client.list_topics(timeout=_ATTEMPT_S)
            except KafkaException as error:
                # Serves the callback that says why. A consumer that is asked this way has nothing assigned yet.
                client.poll(0)
                tried_s = time.monotonic() - began
                if len(self._turned_away) >= (
                    1 if tried_s > _TURNED_AWAY_FOR_S else _TURNED_AWAY_TIMES
                ):
                    raise AccessDenied(
                        f"the brokers at {self.where} turn this client away while {doing}: {self._turned_away[-1]}. "
                        f"{_how_to_get_in(self._turned_away[-1])}"
                    ) from error
                if self._hung_up >= _TURNED_AWAY_TIMES and tried_s > _HANGS_UP_FOR_S:
                    raise BrokerUnavailable(
                        f"the brokers at {self.where} hang up before their first answer while {doing}: is security.protocol "
                        f"({self._options.get('security.protocol', 'PLAINTEXT')} here) what this listener speaks, or do they just start?"
                    ) from error
                if tried_s > BROKER_TIMEOUT_S:
                    raise self.unavailable(doing, error) from error
            else:
                return found

    def resolved(self, future: Future[Any], doing: str) -> Any:
        """A future's result; broker errors and silence as TransportError."""
        try:
            return future.result(timeout=BROKER_TIMEOUT_S + 5)
        except FutureTimeout as error:
            raise self.unavailable(doing) from error
        except KafkaException as error:
            if error_code(error) in DENIED:
                raise AccessDenied(f"{doing} failed: {describe(error)}. {NEEDS_ACL}") from error
            raise TransportError(f"{doing} failed: {describe(error)}") from error


def _address(bootstrap_servers: str | Sequence[str] | None, options: dict[str, object]) -> Address:
    """The brokers to ask first, which may be given as an option too; ConfigurationError where both say something."""
    # What the client calls it, and what it called it before; of its own options it takes the last one.
    given = {
        name: options.pop(name)
        for name in ("bootstrap.servers", "metadata.broker.list")
        if name in options
    }
    if not given:
        return bootstrap_address(bootstrap_servers)
    if bootstrap_servers is not None or len(given) > 1:
        also = "bootstrap_servers" if bootstrap_servers is not None else "metadata.broker.list"
        raise ConfigurationError(
            f"the options have {next(iter(given))}, and {also} is given too; give one of them"
        )
    name, servers = given.popitem()
    return bootstrap_address(
        Address(check_text(f"options[{name!r}]", servers), f"options[{name!r}]")
    )


def error_code(error: BaseException | None) -> int | None:
    """The code of a Kafka error, None if it is none."""
    inner = error.args[0] if isinstance(error, KafkaException) and error.args else None
    return inner.code() if isinstance(inner, KafkaError) else None


def _how_to_get_in(reason: str) -> str:
    """What to do about a connection that was turned away, told by what the client said."""
    if "certificate verify failed" in reason or "broker certificate" in reason:
        return "Its certificate is signed by nobody this client trusts, is expired, or is of another host: ssl.ca.location names whom to trust"
    if "ssl" in reason.lower() and "SASL" not in reason:
        return "Look at security.protocol and the ssl.* options: does this listener speak TLS, and does it ask for a certificate?"
    if "OAUTHBEARER" in reason:
        return "Look at sasl.oauthbearer.*: the token's endpoint, the client's id and its secret (docs/security.md)"
    return "Look at security.protocol, sasl.mechanism, sasl.username and sasl.password (docs/security.md)"


def describe(error: BaseException | KafkaError) -> str:
    """A Kafka error in words, without the C struct around it."""
    inner = error.args[0] if isinstance(error, KafkaException) and error.args else error
    return printable((inner.str() if isinstance(inner, KafkaError) else str(inner)).rstrip("."))
