"""A registry that is hostile: it answers slowly, without end, compressed, or with too many things to ask for."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from support.raw_server import http_answer, raw_server, trickled

from tutelage.schemas.errors import RegistryUnavailable, SchemaError
from tutelage.transport import http_registry, registry_answers
from tutelage.transport.http_registry import HttpRegistry

Answer = Callable[[socket.socket], None]
Serving = Callable[[Answer], str]


@pytest.fixture
def serving() -> Iterator[Serving]:
    """The URL of a server that answers by a function."""
    with contextlib.ExitStack() as servers:
        yield lambda answer: f"http://127.0.0.1:{servers.enter_context(raw_server(answer))}"


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
def test_an_answer_that_trickles_ends_at_the_deadline(
    serving: Serving, head: bytes, forever: bytes
) -> None:
    # Each byte comes well within the timeout of a single read.
    registry = HttpRegistry(serving(trickled(head, forever)), timeout_s=0.3)
    with pytest.raises(RegistryUnavailable, match="did not answer in time to fetch schema 1"):
        registry.schema(1)
    assert not any(
        thread.name == "tutelage-registry" and thread.is_alive() for thread in _after_a_read()
    )
    registry.close()


def _after_a_read() -> list[threading.Thread]:
    """The threads once the one that asked had the time to notice that its connection is closed."""
    for thread in threading.enumerate():
        if thread.name == "tutelage-registry":
            thread.join(10)
    return threading.enumerate()


def test_a_registry_that_was_too_slow_once_is_asked_anew(serving: Serving) -> None:
    answers = [
        trickled(b"HTTP/1.1 200 OK\r\nX-Long: ", b"a"),
        http_answer(json.dumps({"schema": '"int"'}).encode()),
    ]
    registry = HttpRegistry(serving(lambda connection: answers.pop(0)(connection)), timeout_s=0.3)
    with pytest.raises(RegistryUnavailable, match="did not answer in time"):
        registry.schema(1)
    assert registry.schema(1) == '"int"'
    registry.close()


def test_an_answer_without_end_is_not_kept(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = 0

    def serve(connection: socket.socket) -> None:
        nonlocal sent
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        block = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        while True:
            connection.sendall(block)
            sent += 0x10000

    registry = HttpRegistry(serving(serve), timeout_s=30)
    with pytest.raises(RegistryUnavailable, match="more than 16 MiB"):
        registry.schema(1)
    registry.close()
    # What lies in the sockets' buffers comes on top.
    assert sent < 2 * registry_answers.MOST_BYTES


def test_an_answer_of_the_largest_size_is_read(serving: Serving) -> None:
    schema = json.dumps({"schema": '"int"'}).encode()
    registry = HttpRegistry(serving(http_answer(schema.ljust(registry_answers.MOST_BYTES))))
    assert registry.schema(1) == '"int"'
    registry.close()


def test_a_compressed_answer_is_not_unpacked(serving: Serving) -> None:
    registry = HttpRegistry(
        serving(http_answer(gzip.compress(bytes(64 << 20)), "200 OK", "Content-Encoding: gzip"))
    )
    with pytest.raises(RegistryUnavailable, match="compressed answer"):
        registry.schema(1)
    registry.close()


def test_a_subject_with_a_million_versions_is_not_asked_through(serving: Serving) -> None:
    asked = 0

    def serve(connection: socket.socket) -> None:
        nonlocal asked
        asked += 1
        http_answer(json.dumps(list(range(1, 1_000_001))).encode())(connection)

    registry = HttpRegistry(serving(serve))
    with pytest.raises(SchemaError, match="1,000,000 versions of t-value"):
        registry.prepare("t-value")
    registry.close()
    # The compatibility, and the list.
    assert asked == 2


def test_reading_many_versions_ends_at_a_deadline(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    def serve(connection: socket.socket) -> None:
        nonlocal asked
        asked += 1
        if asked <= 2:
            # The compatibility, and the list.
            http_answer(json.dumps(list(range(1, 1001))).encode())(connection)
            return
        # Each version comes well within the timeout of a single request.
        time.sleep(0.1)
        http_answer(json.dumps({"subject": "t-value", "schema": '"int"'}).encode())(connection)

    registry = HttpRegistry(serving(serve), timeout_s=2)
    monkeypatch.setattr(http_registry, "LOOKUP_CALLS", 0.2)
    with pytest.raises(RegistryUnavailable, match=r"\d+ of 1,000 versions of t-value were read"):
        registry.prepare("t-value")
    registry.close()
    assert asked < 100


def test_a_server_s_own_words_are_cut_short(serving: Serving) -> None:
    said = json.dumps({"error_code": 42201, "message": "no " * 1_000_000}).encode()
    registry = HttpRegistry(serving(http_answer(said, "422 No")))
    with pytest.raises(SchemaError) as told:
        registry.register("t-value", '"int"')
    assert len(str(told.value)) < 1000
    registry.close()
