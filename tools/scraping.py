"""A metrics port -> the samples that `watch` shows. The server is not trusted: one request, a deadline, a size limit, no redirects."""

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

#: (name, teacher) -> value; the teacher is "" where a sample has none.
Samples = dict[tuple[str, str], float]

_DEADLINE_S = 2.0
# A student with ten teachers of a thousand partitions each shows about 8 MB.
_MOST_BYTES = 16 << 20
# The parser takes quadratic time for a line of many labels.
_LONGEST_LINE = 64 << 10
_MOST_TEACHERS = 1000
# A student counts rows and seconds. Larger, negative and non-finite values are not from a student.
_LARGEST = 2.0**63
# The samples that `watch` shows. Others are not parsed.
_SHOWN = (
    *(
        "tutelage_consumer_delivered_rows_total",
        "tutelage_consumer_waiting_seconds",
        "tutelage_consumer_wait_seconds_total",
    ),
    *(
        "tutelage_consumer_starved_seconds_total",
        "tutelage_consumer_training_seconds_total",
        "tutelage_checkpoint_age_seconds",
    ),
    *("tutelage_consumer_duplicates_total", "tutelage_consumer_zombie_records_total"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricsAddress:
    """The address of a metrics port."""

    secure: bool
    host: str
    port: int
    path: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}{self.path.removesuffix('/metrics')}"


def parse_metrics_address(given: str) -> MetricsAddress:
    """Parse HOST:PORT or a URL. A path in it is the parent of `/metrics`.

    Raises:
        ConfigurationError: It names no host, another scheme than http or https, or a user.
    """
    try:
        parts = urlsplit(given if "://" in given else f"http://{given}")
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise ConfigurationError(f"--metrics {given!r}: {error}") from error
    if "@" in parts.netloc:
        # Not shown: what is before it may be a password.
        raise ConfigurationError("--metrics names a user; metrics are asked for without one")
    odd = parts.query or parts.fragment or not given.isprintable() or " " in given
    if parts.scheme not in ("http", "https") or not parts.hostname or odd:
        raise ConfigurationError(
            f"--metrics {given!r}: give it as HOST:PORT, or as a URL that begins with http:// or https://"
        )
    path = f"{parts.path.removesuffix('/').removesuffix('/metrics')}/metrics"
    return MetricsAddress(secure=parts.scheme == "https", host=parts.hostname, port=port, path=path)


def scrape(place: MetricsAddress) -> Samples:
    """Fetch a student's samples. Samples with the same name and teacher are combine_samples up; impossible values are ignored.

    Raises:
        TransportError: No answer in time, an answer that is not metrics or exceeds 16 MiB, or too many teachers.
    """
    try:
        return _samples(_body(place))
    except (OSError, HTTPException, ValueError) as error:
        raise TransportError(f"no metrics at {place}: {error or type(error).__name__}") from error


def _samples(body: bytes) -> Samples:
    from prometheus_client.parser import text_string_to_metric_families

    lines = [line for line in body.decode().split("\n") if line.startswith(_SHOWN)]
    if any(len(line) > _LONGEST_LINE for line in lines):
        raise ValueError(f"a line is longer than {_LONGEST_LINE:,} characters")
    found: Samples = {}
    for family in text_string_to_metric_families("\n".join(lines)):
        for sample in family.samples:
            if 0 <= sample.value <= _LARGEST:
                key = (sample.name, sample.labels.get("teacher", ""))
                found[key] = found.get(key, 0.0) + sample.value
    if len({teacher for _, teacher in found}) > _MOST_TEACHERS:
        raise ValueError(f"they are of more than {_MOST_TEACHERS:,} teachers")
    return found


def combine_samples(samples: Iterable[Samples]) -> Samples:
    """Combine the samples of several students: the maximum of ages, the sum of all others."""
    together: Samples = {}
    for one in samples:
        for key, value in one.items():
            before = together.get(key, 0.0)
            together[key] = (
                max(before, value) if key[0].endswith("_age_seconds") else before + value
            )
    return together


def _body(place: MetricsAddress) -> bytes:
    """Fetch the body of the answer. Raises TimeoutError at the deadline, however slowly data arrive."""
    late, ends = threading.Event(), list[socket.socket]()

    def cut() -> None:
        late.set()
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def asked() -> bytes:
        # Longer than the deadline, so that `cut` ends every read.
        with (
            socket.create_connection((place.host, place.port), timeout=2 * _DEADLINE_S) as plain,
            plain.dup() as end,
        ):
            # TLS takes over the socket; the duplicate can still be shut down.
            ends.append(end)
            if late.is_set():
                raise TimeoutError
            return _answer(place, plain)

    try:
        return within(_DEADLINE_S, asked, name="tutelage-scrape", give_up=cut)
    except TimeoutError as error:
        raise TimeoutError(f"not answered within {_DEADLINE_S:.0f} s") from error


def _answer(place: MetricsAddress, plain: socket.socket) -> bytes:
    connection = HTTPConnection(place.host, place.port)
    connection.sock = (
        ssl.create_default_context().wrap_socket(plain, server_hostname=place.host)
        if place.secure
        else plain
    )
    with contextlib.closing(connection):
        # An uncompressed answer.
        connection.request(
            "GET", place.path, headers={"Accept-Encoding": "identity", "Connection": "close"}
        )
        with connection.getresponse() as answer:
            if answer.status != HTTPStatus.OK:
                redirects = (
                    ", a redirect, which is not followed" if 300 <= answer.status < 400 else ""
                )
                raise ValueError(f"HTTP {answer.status}{redirects}")
            body = answer.read(_MOST_BYTES + 1)
    if len(body) > _MOST_BYTES:
        raise ValueError(f"the answer is larger than {_MOST_BYTES >> 20} MiB")
    return body
