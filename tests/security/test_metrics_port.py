"""The port of --metrics-port keeps answering, whoever connects to it; and `watch --metrics` is not held, filled or fooled by a port it asks."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from support.commands import invoke
from support.hostile import BAD, assert_harmless
from support.raw_server import http_answer, raw_server

from tutelage.cli import metrics_server
from tutelage.cli.monitoring import serve_metrics
from tutelage.schemas.errors import ConfigurationError, TransportError
from tutelage.tools import scraping
from tutelage.tools.scraping import Samples, parse_metrics_address, scrape
from tutelage.tools.watch import Watcher
from tutelage.transport.status import Activity

ROWS = ("tutelage_consumer_delivered_rows_total", "")
PAGE = b"tutelage_consumer_delivered_rows_total 5.0\n"


class One(Collector):
    """A single metric."""

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("tutelage_one", "One.", value=1.0)


@contextlib.contextmanager
def metrics_port(doing: str = "working") -> Iterator[int]:
    """The port of a command that is monitored."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serve_metrics(str(port), One, lambda: Activity(doing=doing, seconds=1)):
        yield port


def answered(port: int, path: str = "/metrics") -> str:
    """What an honest client gets."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        body: bytes = answer.read()
        return body.decode()


def threads() -> int:
    """How many threads serve a connection."""
    return sum("process_request_thread" in one.name for one in threading.enumerate())


def until(done: Callable[[], bool]) -> None:
    """Wait, half a minute at most."""
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_idle_connections_neither_exhaust_the_port_nor_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Not by their age: by their number alone.
    monkeypatch.setattr(metrics_server, "_CONNECTION_S", 3600.0)
    with metrics_port() as port, contextlib.ExitStack() as opened:
        idle = []
        for index in range(200):
            idle.append(opened.enter_context(socket.create_connection(("127.0.0.1", port))))
            if index % 3:
                idle[-1].sendall(b"GET /metrics HTTP/1.1\r\nX: ")
            if not index % 20:
                assert "tutelage_one 1.0" in answered(port)
        assert "tutelage_one 1.0" in answered(port)
        until(lambda: threads() <= 16)
        for connection in idle[:100]:
            connection.settimeout(30)
            with contextlib.suppress(ConnectionError):
                assert connection.recv(1) == b""
    until(lambda: not threads())


def test_a_connection_that_trickles_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "_CONNECTION_S", 0.5)
    with metrics_port() as port, socket.create_connection(("127.0.0.1", port)) as slow:
        slow.settimeout(0.1)
        cut: list[bool] = []

        def ended() -> bool:
            try:
                slow.sendall(b"G")
                cut.append(slow.recv(1) == b"")
            except TimeoutError:
                return False
            except ConnectionError:
                cut.append(True)
            return bool(cut)

        until(ended)
        assert cut == [True]
        until(lambda: not threads())


def test_the_port_ends_with_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    with metrics_port() as port:
        idle = socket.create_connection(("127.0.0.1", port))
        until(lambda: threads() == 1)
    with idle:
        until(lambda: not threads())
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    # Connections that were cut are nothing to tell.
    assert capsys.readouterr().err == ""


def test_a_client_that_leaves_is_nothing_to_tell(capsys: pytest.CaptureFixture[str]) -> None:
    with metrics_port() as port:
        leaving = socket.create_connection(("127.0.0.1", port))
        leaving.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        until(lambda: threads() == 1)
        # Closed without a word: the server reads from a connection that was reset.
        leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        leaving.close()
        until(lambda: not threads())
        assert "tutelage_one 1.0" in answered(port)
    assert capsys.readouterr().err == ""


def test_health_says_nothing_that_acts_on_a_terminal() -> None:
    with metrics_port(doing=f"waiting for {BAD}") as port:
        assert_harmless(answered(port, "/livez"))


@pytest.mark.parametrize(
    "place",
    [
        *(
            "file:///etc/passwd",
            "ftp://host/x",
            "gopher://host",
            "http://",
            "//",
            "",
            "http://user:hunter2@host:1",
            "host:port",
            "host:99999",
        ),
        *(
            "http://host:1/?x=y",
            "http://host:1/#x",
            "ho st:1",
            "host:1/\r\nX: y",
            f"host{BAD}:1",
            "http://[::1",
            "javascript://x",
        ),
    ],
)
def test_only_http_is_asked_for_metrics(place: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse_metrics_address(place)
    assert "hunter2" not in str(raised.value)
    assert_harmless(str(raised.value))
    result = invoke("watch", "t", "--json", "--metrics", place, "-b", "127.0.0.1:1")
    assert result.code == 2 and result.err.startswith("error: --metrics")


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("localhost:9404", "http://localhost:9404"),
        ("http://h:1/metrics", "http://h:1"),
        ("https://h/a/", "https://h:443/a"),
        ("[::1]:9404", "http://[::1]:9404"),
    ],
)
def test_places_are_understood(given: str, asked: str) -> None:
    assert str(parse_metrics_address(given)) == asked
    assert parse_metrics_address(given).path.endswith("/metrics")


def endless(connection: socket.socket) -> None:
    """A body without end."""
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"10000\r\n" + b"a 1\n" * 0x4000 + b"\r\n")


def trickling(part: bytes) -> Callable[[socket.socket], None]:
    """An answer of which a byte comes now and then."""

    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(part)
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)

    return answer


def silent(connection: socket.socket) -> None:
    """Nothing at all."""
    time.sleep(60)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (endless, "larger than 16 MiB"),
        (trickling(b"HTTP/1.1 200 OK\r\n\r\n"), "not answered within"),
        (trickling(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"), "not answered within"),
        (trickling(b"HTTP/1.1 200 OK\r\nX: "), "not answered within"),
        (trickling(b""), "not answered within"),
        (silent, "not answered within"),
        (http_answer(b"", "302 Found", "Location: http://127.0.0.1:1/"), "a redirect, which is not followed"),
        (http_answer(b"", "500 Oops"), "HTTP 500"),
        (lambda connection: connection.sendall(BAD.encode(errors="replace") * 100), "no metrics at"),
        (http_answer(b"\xff\xfe\x00"), "no metrics at"),
        (http_answer(b"tutelage_consumer_duplicates_total{" + BAD.encode(errors="replace")), "no metrics at"),
        (http_answer(b"tutelage_consumer_duplicates_total{teacher=\"" + b"x" * 70_000), "a line is longer"),
        (http_answer(b"".join(b'tutelage_consumer_duplicates_total{teacher="%d"} 1\n' % each for each in range(1001))), "more than 1,000 teachers"),
    ],
)  # fmt: skip
def test_a_port_that_answers_anything_is_an_error(
    answer: Callable[[socket.socket], None], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "larger" not in words:
        monkeypatch.setattr(scraping, "_DEADLINE_S", 0.5)
    with raw_server(answer) as port, pytest.raises(TransportError, match=words) as raised:
        scrape(parse_metrics_address(f"127.0.0.1:{port}"))
    assert_harmless(str(raised.value))
    until(lambda: not any(isinstance(one, threading.Timer) for one in threading.enumerate()))


def test_a_redirect_to_a_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "metrics").write_bytes(PAGE)
    with (
        raw_server(http_answer(b"", "301 Moved", f"Location: file://{tmp_path}/metrics")) as port,
        pytest.raises(TransportError, match="not followed"),
    ):
        scrape(parse_metrics_address(f"127.0.0.1:{port}"))


def test_tls_that_trickles_is_cut_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraping, "_DEADLINE_S", 0.5)
    # A handshake's record of 16 KiB, of which a byte comes now and then.
    with (
        raw_server(trickling(b"\x16\x03\x03\x40\x00")) as port,
        pytest.raises(TransportError, match="not answered within"),
    ):
        scrape(parse_metrics_address(f"https://127.0.0.1:{port}"))


def test_numbers_that_are_none_are_passed_over() -> None:
    page = "".join(
        f"{ROWS[0]} {value}\n"
        for value in ("5", "NaN", "+Inf", "1e999", "-Inf", "1.7e308", "-1", "2")
    )
    with raw_server(http_answer(page.encode())) as port:
        found = scrape(parse_metrics_address(f"127.0.0.1:{port}"))
    assert found == {ROWS: 7.0}


def test_what_is_not_shown_is_not_parsed() -> None:
    with raw_server(
        http_answer(PAGE + b"other{" * 10 + b"\n" + b"process_x{" + b"y" * 100_000)
    ) as port:
        assert scrape(parse_metrics_address(f"127.0.0.1:{port}")) == {ROWS: 5.0}


def samples_of(value: float) -> Samples:
    """Every sample that is shown, with this value, of a hostile teacher too."""
    return {
        (name, teacher): value for name in scraping._SHOWN for teacher in ("", BAD, f"[/]{BAD}")
    }


@pytest.mark.parametrize("value", [0.0, 5e-324, 2.0**63])
def test_no_number_is_too_odd_to_be_shown(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = [samples_of(0.0), samples_of(value)]
    monkeypatch.setattr(
        "tutelage.tools.metrics_ports.scrape",
        lambda place: turns.pop(0) if turns else samples_of(value),
    )
    monkeypatch.setattr(
        Watcher, "_topic", lambda self, name, trouble: (_ for _ in ()).throw(TransportError("away"))
    )
    result = invoke(
        "watch", "t", "--json", "--every", "0.2", "--metrics", "127.0.0.1:1", "-b", "127.0.0.1:1"
    )
    assert result.code == 1
    assert_harmless(result.out + result.err)
    assert json.loads(result.out)["student"] is not None
