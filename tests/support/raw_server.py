"""A TCP server that answers each connection by a function of the test: whatever a hostile server may send, and however slowly."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def raw_server(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a server on 127.0.0.1 that calls `answer` with each connection, in a thread of its own, and then closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=one, args=(connection,), daemon=True).start()

        def one(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                answer(connection)

        accepting = threading.Thread(target=serve, daemon=True)
        accepting.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join(timeout=10)


def http_answer(
    body: bytes, status: str = "200 OK", *headers: str
) -> Callable[[socket.socket], None]:
    """Answers one request with this, and closes the connection."""
    head = "\r\n".join(
        (
            f"HTTP/1.1 {status}",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *headers,
            "",
            "",
        )
    )

    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(head.encode() + body)
        connection.shutdown(socket.SHUT_WR)
        # Closed with something unread, a connection is reset, and its answer may be lost.
        while connection.recv(65536):
            pass

    return answer


def trickled(head: bytes, forever: bytes) -> Callable[[socket.socket], None]:
    """Answers one request with the head at once, and then a piece of the rest now and then, until the client leaves."""

    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(head)
        while True:
            time.sleep(0.02)
            connection.sendall(forever)

    return answer
