"""Address, registry and client options -> Kafka clients, for both sides.

Translates the clients' errors and silences their logs. Opens no connection by itself. Can be
pickled if the registry can. Knows nothing of topics and records.
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
from tutelage.transport.client_defaults import (
    CONSUMER_DEFAULTS,
    NOTHING_AHEAD,
    PRODUCER_DEFAULTS,
    fetch_bytes,
)
from tutelage.transport.client_errors import DENIED, NEEDS_ACL, access_advice, describe, error_code
from tutelage.transport.exposure import kafka_exposures, warn_once
from tutelage.transport.hiding import hiding, secrets_in
from tutelage.transport.rate_limit import RateLimit
from tutelage.transport.registry import Registry, checked_registry
from tutelage.transport.secretless import Secretless, public_settings

log = logging.getLogger(__name__)
# librdkafka's own log, up to 20 lines a second while a broker is down: only at level DEBUG.
client_log = logging.getLogger("tutelage.kafka_client")
client_log.addFilter(lambda _: client_log.isEnabledFor(logging.DEBUG))

# A forked child must never free its parent's clients: librdkafka would wait for threads that the
# child does not have. gc.freeze keeps the child from collecting what the parent left.
os.register_at_fork(after_in_child=gc.freeze)

BROKER_TIMEOUT_S = 10.0
# Room between our payload and the topic's limit, for record batch framing and headers.
MESSAGE_HEADROOM_BYTES = 64 << 10

# One of several attempts within BROKER_TIMEOUT_S. Between them the client reports what went wrong.
_ATTEMPT_S = 1.0
# One rejection may be an accident, such as a broker that is shutting down. Two mean this client.
_FAILURES_TO_GIVE_UP = 2
# After this long one rejection is enough: the client retries a rejected token only slowly.
_REJECTED_FOR_S = 3.0
_REJECTING = frozenset(
    (KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED)
)
# A TLS alert has another code; the client's message has this text.
_TLS_ALERT = "SSL routines"
# Only the client's log says, with this text, that a broker disconnected before its first answer.
# The broker may be starting or stopping behind a proxy, or expect another protocol: wait a little
# longer to tell which.
_DISCONNECTED = "/bootstrap: Disconnected"
_DISCONNECTS_FOR_S = 4.0

# librdkafka names this option when a response is larger than it takes; it then retries for ever.
_TOO_LARGE = "receive.message.max.bytes"
# librdkafka reports 20 times a second that all brokers are down; we warn at most this often.
_WARN_EVERY_S = 30.0


class _ClientLog:
    """Receives a client's log lines, for the debug log and for the connection's diagnosis."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line

    def log(self, level: int, message: str, *args: object) -> None:
        """Receive a line; called by the client."""
        self._on_line(message % args if args else message)
        client_log.log(level, message, *args)


class KafkaConnection(Secretless):
    """A cluster and its registry. Makes clients for them.

    Args:
        bootstrap_servers: The brokers' addresses; None for the environment's or the default.
        registry: A registry or its URL; None for the environment's or the default.
        options: librdkafka's options, passed on unchanged. They take precedence over our defaults.
        client_id: What brokers call the clients.

    Raises:
        ConfigurationError: An argument has the wrong type or value.
    """

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
        self._rejections: deque[str] = deque(maxlen=4)
        self._disconnects = 0
        self._all_down, self._slowed, self._too_large = (RateLimit(_WARN_EVERY_S) for _ in range(3))

    @property
    def where(self) -> str:
        """The brokers' address and its origin, for errors."""
        return self._address.with_origin

    def __repr__(self) -> str:
        return f"KafkaConnection({self.bootstrap_servers!r}, registry={self.registry!r})"

    def _public_state(self, state: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        options, withheld = public_settings(self._options)
        return {**state, "_options": options}, withheld

    def producer(self, settings: Mapping[str, object] | None = None) -> Producer:
        """Return a new idempotent producer.

        `settings` take precedence over our defaults, and the user's options over both.
        """
        client: Producer = self._client(Producer, {**PRODUCER_DEFAULTS, **(settings or {})})
        return client

    def consumer(
        self,
        group: str | None = None,
        *,
        partitions: int = 1,
        record_bytes: int = 0,
        sparing: bool = False,
        settings: Mapping[str, object] | None = None,
    ) -> Consumer:
        """Return a new consumer.

        Args:
            group: The group to commit offsets to, if any are committed.
            partitions: How many partitions it will be assigned.
            record_bytes: The size of the records in the topic; 0 if it is not known.
            sparing: Whether it is to read only a few messages: nothing is fetched ahead.
            settings: More options, which take precedence over our defaults; None leaves a
                default out.
        """
        ours = {
            "fetch.message.max.bytes": fetch_bytes(partitions, record_bytes),
            "group.id": group or "tutelage",
            **(NOTHING_AHEAD if sparing else {}),
            **(settings or {}),
        }
        merged = {**CONSUMER_DEFAULTS, **ours}
        used = {name: value for name, value in merged.items() if value is not None}
        client: Consumer = self._client(Consumer, used)
        return client

    def admin(self) -> AdminClient:
        """Return a new admin client.

        Keep a reference: its futures never resolve once it is garbage-collected.
        """
        client: AdminClient = self._client(AdminClient, {})
        return client

    def _client(self, kind: Callable[..., Any], defaults: Mapping[str, object]) -> Any:
        self._check_secrets_present()
        hiding.add(secrets_in(self._options))
        warn_once(kafka_exposures(self.bootstrap_servers, self._options))
        config = {
            "bootstrap.servers": self.bootstrap_servers,
            # Operators see these in request logs, quotas and the brokers' client metrics.
            "client.id": self.client_id,
            "client.software.name": "tutelage",
            "client.software.version": version("tutelage"),
            "throttle_cb": self._on_throttle,
            **defaults,
            **self._options,
            "error_cb": self._on_error,
        }
        try:
            return kind(config, logger=_ClientLog(self._read_log_line))
        except (KafkaException, ValueError, TypeError) as error:
            raise ConfigurationError(
                f"the Kafka client refuses its options: {hiding.hidden(describe(error))}"
            ) from hiding.cause(error)

    def _on_throttle(self, event: ThrottleEvent) -> None:
        """Warn that a quota slows the client down. Nothing is lost."""
        if event.throttle_time > 0 and self._slowed.due():
            log.warning(
                "a quota holds client %s back: %s lets it go on after %.1f s",
                self.client_id,
                printable(event.broker_name),
                event.throttle_time,
            )

    def _on_error(self, error: KafkaError) -> None:
        client_log.debug("client error: %s", error)
        if error.code() != KafkaError._ALL_BROKERS_DOWN or not self._last_error:
            # "All brokers are down" says less than the reason for each of them.
            self._last_error = error.str()
        if error.code() in _REJECTING or _TLS_ALERT in error.str():
            self._rejections.append(error.str())
        if _TOO_LARGE in error.str() and self._too_large.due():
            log.warning(
                "%s: a response is too large for this client: raise %s, with -X or in options",
                error.str(),
                _TOO_LARGE,
            )
        if error.code() == KafkaError._ALL_BROKERS_DOWN and self._all_down.due():
            log.warning(
                "waiting for a broker of %s: none answers (%s)", self.where, describe(error)
            )

    def _read_log_line(self, line: str) -> None:
        if _DISCONNECTED in line:
            self._disconnects += 1

    def unavailable(self, doing: str, error: Exception | None = None) -> BrokerUnavailable:
        """Return the error for a cluster that does not answer, with the client's last error."""
        cause = self._last_error or (describe(error) if error else "no answer")
        return BrokerUnavailable(
            f"no Kafka broker answered at {self.where} within {BROKER_TIMEOUT_S:.0f} s while "
            f"{doing} ({cause}); "
            "is it running, and is this its address? (`tutelage stack up` starts one here)"
        )

    def metadata(self, client: AdminClient | Consumer | Producer, doing: str) -> Any:
        """Return the cluster's metadata, with all topics.

        Not of one topic: a request by name could create it, and the client logs an error if it is
        missing.

        Args:
            client: Sends the request.
            doing: What the metadata is for; stands behind "while" in errors.

        Raises:
            BrokerUnavailable: No broker answered.
            AccessDenied: The brokers reject this client. Raised before the timeout.
        """
        began = time.monotonic()
        self._rejections.clear()
        self._disconnects = 0
        while True:
            try:
                found = client.list_topics(timeout=_ATTEMPT_S)
            except KafkaException as error:
                # Runs the error callback. A consumer has nothing assigned yet: no record is lost.
                client.poll(0)
                tried_s = time.monotonic() - began
                if len(self._rejections) >= (
                    1 if tried_s > _REJECTED_FOR_S else _FAILURES_TO_GIVE_UP
                ):
                    raise AccessDenied(
                        f"the brokers at {self.where} reject this client while {doing}: "
                        f"{self._rejections[-1]}. "
                        f"{access_advice(self._rejections[-1])}"
                    ) from error
                if self._disconnects >= _FAILURES_TO_GIVE_UP and tried_s > _DISCONNECTS_FOR_S:
                    raise BrokerUnavailable(
                        f"the brokers at {self.where} disconnect before their first answer while "
                        f"{doing}: is security.protocol "
                        f"({self._options.get('security.protocol', 'PLAINTEXT')} here) the "
                        "listener's protocol, or are they starting?"
                    ) from error
                if tried_s > BROKER_TIMEOUT_S:
                    raise self.unavailable(doing, error) from error
            else:
                return found

    def resolved(self, future: Future[Any], doing: str) -> Any:
        """Wait for an admin request's future and return its result.

        Raises:
            TransportError: The brokers reported an error or did not answer. AccessDenied and
                BrokerUnavailable are kinds of it.
        """
        try:
            return future.result(timeout=BROKER_TIMEOUT_S + 5)
        except FutureTimeout as error:
            raise self.unavailable(doing) from error
        except KafkaException as error:
            if error_code(error) in DENIED:
                raise AccessDenied(f"{doing} failed: {describe(error)}. {NEEDS_ACL}") from error
            raise TransportError(f"{doing} failed: {describe(error)}") from error


def _address(bootstrap_servers: str | Sequence[str] | None, options: dict[str, object]) -> Address:
    """The bootstrap servers, from the argument or the options; ConfigurationError if from both."""
    # The option's name and its former name; the client would take the last one.
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
