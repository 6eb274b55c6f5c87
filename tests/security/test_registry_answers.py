"""A registry that is hostile: it answers slowly, without end, compressed, or with too many things to ask for."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tutelage.schemas import registry_answers
from tutelage.schemas.errors import RegistryUnavailable, SchemaError
from tutelage.schemas.registry import HttpRegistry

Serve = Callable[[socket.socket, threading.Event], None]


class RawServer:
    """Hands each connection, once a request came in, to a function; what that does is nobody's idea of HTTP."""

    def __init__(self, serve: Serve) -> None:
        self._ended = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._serve = serve
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            if self._ended.is_set():
                connection.close()
                return
            thread = threading.Thread(target=self._answer, args=(connection,))
            thread.start()
            self._threads.append(thread)

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(65536)
                self._serve(connection, self._ended)
            except OSError:
                return

    def close(self) -> None:
        """End it, and whatever it is sending."""
        self._ended.set()
        with socket.create_connection(self._listening.getsockname()):
            pass
        self._accepting.join(10)
        self._listening.close()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture
def serving() -> Iterator[Callable[[Serve], str]]:
    servers: list[RawServer] = []

    def start(serve: Serve) -> str:
        servers.append(RawServer(serve))
        return servers[-1].url

    yield start
    for server in servers:
        server.close()


def trickled(head: bytes, forever: bytes) -> Serve:
    """Sends the head at once, and then a byte of the rest now and then, for ever."""

    def serve(connection: socket.socket, ended: threading.Event) -> None:
        connection.sendall(head)
        while not ended.wait(0.02):
            connection.sendall(forever)

    return serve


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("head", "forever"),
    [
        (b"HTTP/1.1 200 OK\r\nX-Long: ", b"a"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n[", b" "),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"HTTP/1.1 500 Wait\r\nContent-Length: 1000000\r\n\r\n[", b" "),
    ],
    ids=["head", "body", "chunks", "error"],
)
def test_an_answer_that_trickles_ends_at_the_deadline(serving: Callable[[Serve], str], head: bytes, forever: bytes) -> None:
    # Each byte comes well within the timeout of a single read.
    registry = HttpRegistry(serving(trickled(head, forever)), timeout_s=0.3)
    with pytest.raises(RegistryUnavailable, match="did not answer in time to fetch schema 1"):
        registry.schema(1)
    assert not any(thread.name == "tutelage-registry" and thread.is_alive() for thread in _after_a_read())
    registry.close()


def _after_a_read() -> list[threading.Thread]:
    """The threads once the one that asked had the time to notice that its connection is closed."""
    for thread in threading.enumerate():
        if thread.name == "tutelage-registry":
            thread.join(10)
    return threading.enumerate()


def test_a_registry_that_was_too_slow_once_is_asked_anew(serving: Callable[[Serve], str]) -> None:
    answers = [trickled(b"HTTP/1.1 200 OK\r\nX-Long: ", b"a"), _once(json.dumps({"schema": '"int"'}).encode())]
    registry = HttpRegistry(serving(lambda connection, ended: answers.pop(0)(connection, ended)), timeout_s=0.3)
    with pytest.raises(RegistryUnavailable, match="did not answer in time"):
        registry.schema(1)
    assert registry.schema(1) == '"int"'
    registry.close()


def _once(body: bytes, headers: str = "", status: str = "200 OK") -> Serve:
    def serve(connection: socket.socket, ended: threading.Event) -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
        connection.sendall(head.encode() + body)
        connection.shutdown(socket.SHUT_WR)
        # Closed with something unread, a connection is reset, and its answer may be lost.
        while connection.recv(65536):
            pass

    return serve


def test_an_answer_without_end_is_not_kept(serving: Callable[[Serve], str], monkeypatch: pytest.MonkeyPatch) -> None:
    sent = 0

    def serve(connection: socket.socket, ended: threading.Event) -> None:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        block = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        while not ended.is_set():
            connection.sendall(block)
            sent += 0x10000

    registry = HttpRegistry(serving(serve), timeout_s=30)
    with pytest.raises(RegistryUnavailable, match="more than 16 MiB"):
        registry.schema(1)
    registry.close()
    # What lies in the sockets' buffers comes on top.
    assert sent < 2 * registry_answers.MOST_BYTES


def test_an_answer_of_the_largest_size_is_read(serving: Callable[[Serve], str]) -> None:
    schema = json.dumps({"schema": '"int"'}).encode()
    registry = HttpRegistry(serving(_once(schema.ljust(registry_answers.MOST_BYTES))))
    assert registry.schema(1) == '"int"'
    registry.close()


def test_a_compressed_answer_is_not_unpacked(serving: Callable[[Serve], str]) -> None:
    registry = HttpRegistry(serving(_once(gzip.compress(bytes(64 << 20)), "Content-Encoding: gzip\r\n")))
    with pytest.raises(RegistryUnavailable, match="compressed answer"):
        registry.schema(1)
    registry.close()


def test_a_subject_with_a_million_versions_is_not_asked_through(serving: Callable[[Serve], str]) -> None:
    asked = 0

    def serve(connection: socket.socket, ended: threading.Event) -> None:
        nonlocal asked
        asked += 1
        _once(json.dumps(list(range(1, 1_000_001))).encode())(connection, ended)

    registry = HttpRegistry(serving(serve))
    with pytest.raises(SchemaError, match="1,000,000 versions of t-value"):
        registry.prepare("t-value")
    registry.close()
    # The compatibility, and the list.
    assert asked == 2


def test_a_server_s_own_words_are_cut_short(serving: Callable[[Serve], str]) -> None:
    said = json.dumps({"error_code": 42201, "message": "no " * 1_000_000}).encode()
    registry = HttpRegistry(serving(_once(said, status="422 No")))
    with pytest.raises(SchemaError) as told:
        registry.register("t-value", '"int"')
    assert len(str(told.value)) < 1000
    registry.close()
