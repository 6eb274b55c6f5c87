"""A metrics port -> the samples that `watch` shows.

The server is not trusted: one request, a deadline, a size limit, no redirects.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from tutelage.schemas.errors import ConfigurationError, TransportError
from tutelage.transport.background import within

#: (name, teacher) -> value; the teacher is "" for a sample without one.
Samples = dict[tuple[str, str], float]

_DEADLINE_S = 2.0
# A student with ten teachers of a thousand partitions each shows about 8 MB.
_MAX_BYTES = 16 << 20
# The parser takes quadratic time for a line of many labels.
_MAX_LINE_CHARS = 64 << 10
_MAX_TEACHERS = 1000
# Rows, tokens and seconds are counted. Larger, negative and non-finite values are not ours.
_MAX_VALUE = 2.0**63
# The samples that `watch` shows. Others are not parsed.
_SHOWN = (
    "tutelage_consumer_delivered_rows_total",
    "tutelage_consumer_waiting_seconds",
    "tutelage_consumer_wait_seconds_total",
    "tutelage_consumer_starved_seconds_total",
    "tutelage_consumer_training_seconds_total",
    "tutelage_checkpoint_age_seconds",
    "tutelage_consumer_duplicates_total",
    "tutelage_consumer_zombie_records_total",
    "tutelage_policy_lag",
    "tutelage_replica_queries_total",
    "tutelage_replica_rows_total",
    "tutelage_replica_tokens_total",
    "tutelage_replica_rebalances_total",
    "tutelage_replica_discarded_total",
    "tutelage_replica_partitions",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricsAddress:
    """The address of a metrics port, with the path of the metrics."""

    secure: bool
    host: str
    port: int
    path: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "https" if self.secure else "http"
        return f"{scheme}://{host}:{self.port}{self.path.removesuffix('/metrics')}"


def parse_metrics_address(given: str) -> MetricsAddress:
    """Parse HOST:PORT or a URL, whose path is the parent of `/metrics`.

    Raises:
        ConfigurationError: There is no host, the scheme is not http or https, or there is a user.
    """
    try:
        parts = urlsplit(given if "://" in given else f"http://{given}")
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise ConfigurationError(f"--metrics {given!r}: {error}") from error
    if "@" in parts.netloc:
        # The address is not shown: it may hold a password.
        raise ConfigurationError("--metrics names a user; give it without one")
    has_extras = parts.query or parts.fragment or not given.isprintable() or " " in given
    if parts.scheme not in ("http", "https") or not parts.hostname or has_extras:
        raise ConfigurationError(
            f"--metrics {given!r}: give it as HOST:PORT, or as a URL that begins with http:// or "
            "https://"
        )
    path = f"{parts.path.removesuffix('/').removesuffix('/metrics')}/metrics"
    return MetricsAddress(secure=parts.scheme == "https", host=parts.hostname, port=port, path=path)


def scrape(address: MetricsAddress) -> Samples:
    """Fetch the samples of a student or a replica.

    Samples with the same name and teacher are added up; impossible values are ignored.

    Raises:
        TransportError: No answer came in time, it is not metrics or exceeds 16 MiB, or it names too
            many teachers.
    """
    try:
        return _samples(_body(address))
    except (OSError, HTTPException, ValueError) as error:
        raise TransportError(f"no metrics at {address}: {error or type(error).__name__}") from error


def _samples(body: bytes) -> Samples:
    from prometheus_client.parser import text_string_to_metric_families

    lines = [line for line in body.decode().split("\n") if line.startswith(_SHOWN)]
    if any(len(line) > _MAX_LINE_CHARS for line in lines):
        raise ValueError(f"a line is longer than {_MAX_LINE_CHARS:,} characters")
    found: Samples = {}
    for family in text_string_to_metric_families("\n".join(lines)):
        for sample in family.samples:
            if 0 <= sample.value <= _MAX_VALUE:
                key = (sample.name, sample.labels.get("teacher", ""))
                found[key] = found.get(key, 0.0) + sample.value
    if len({teacher for _, teacher in found}) > _MAX_TEACHERS:
        raise ValueError(f"they name more than {_MAX_TEACHERS:,} teachers")
    return found


def combine_samples(samples: Iterable[Samples]) -> Samples:
    """Combine the samples of several students: the maximum of ages and lags, the sum of others."""
    combined: Samples = {}
    for one in samples:
        for key, value in one.items():
            before = combined.get(key, 0.0)
            combined[key] = (
                max(before, value) if key[0].endswith(("_age_seconds", "_lag")) else before + value
            )
    return combined


def _body(address: MetricsAddress) -> bytes:
    """Fetch the body of the answer. TimeoutError at the deadline, even if data still trickle in."""
    timed_out, sockets = threading.Event(), list[socket.socket]()

    def cut() -> None:
        timed_out.set()
        for duplicate in sockets:
            with contextlib.suppress(OSError):
                duplicate.shutdown(socket.SHUT_RDWR)

    def fetch() -> bytes:
        # Longer than the deadline, so that `cut` ends every read.
        with (
            socket.create_connection(
                (address.host, address.port), timeout=2 * _DEADLINE_S
            ) as plain,
            plain.dup() as duplicate,
        ):
            # TLS takes over the socket; its duplicate can still be shut down.
            sockets.append(duplicate)
            if timed_out.is_set():
                raise TimeoutError
            return _answer(address, plain)

    try:
        return within(_DEADLINE_S, fetch, name="tutelage-scrape", give_up=cut)
    except TimeoutError as error:
        raise TimeoutError(f"not answered within {_DEADLINE_S:.0f} s") from error


def _answer(address: MetricsAddress, plain: socket.socket) -> bytes:
    connection = HTTPConnection(address.host, address.port)
    connection.sock = (
        ssl.create_default_context().wrap_socket(plain, server_hostname=address.host)
        if address.secure
        else plain
    )
    with contextlib.closing(connection):
        # "identity" asks for an uncompressed answer.
        connection.request(
            "GET", address.path, headers={"Accept-Encoding": "identity", "Connection": "close"}
        )
        with connection.getresponse() as answer:
            if answer.status != HTTPStatus.OK:
                redirects = (
                    ", a redirect, which is not followed" if 300 <= answer.status < 400 else ""
                )
                raise ValueError(f"HTTP {answer.status}{redirects}")
            body = answer.read(_MAX_BYTES + 1)
    if len(body) > _MAX_BYTES:
        raise ValueError(f"the answer is larger than {_MAX_BYTES >> 20} MiB")
    return body
