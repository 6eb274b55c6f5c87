"""The HTTP server behind `--metrics-port`: prometheus_client's, with a limit of connections and a time that each may take.

Whoever asks is not trusted: a connection that says nothing, or trickles, must not keep Prometheus or a health check from their answer,
take memory or threads without end, or outlive the command.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client.exposition import ThreadingWSGIServer

log = logging.getLogger(__name__)

# An answer takes milliseconds.
_CONNECTION_S = 5.0
# Each has a thread. Prometheus and a kubelet need one each.
_MOST_CONNECTIONS = 16
# How often connections are looked at, and at most so long does closing take.
_LOOK_EVERY_S = 0.1


class MetricsServer(ThreadingWSGIServer):
    """Serves an application in threads of its own. Where there are too many connections the oldest is cut, so a new one is always served."""

    # Waiting for `accept`, which comes at once.
    request_queue_size = 64

    def __init__(self, *args: Any, **settings: Any) -> None:
        self._lock = threading.Lock()
        #: Open connections, the oldest first, and since when they are open.
        self._open: dict[socket.socket, float] = {}
        super().__init__(*args, **settings)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin to serve a connection."""
        with self._lock:
            if len(self._open) >= _MOST_CONNECTIONS:
                oldest = next(iter(self._open))
                _cut(oldest)
                del self._open[oldest]
            self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """A connection's end."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut what has been open for too long; called several times a second."""
        now = time.monotonic()
        with self._lock:
            for request, since in list(self._open.items()):
                if now - since > _CONNECTION_S:
                    _cut(request)
                    del self._open[request]

    def server_close(self) -> None:
        """Stop listening, and cut the connections that are left."""
        super().server_close()
        with self._lock:
            for request in self._open:
                _cut(request)
            self._open.clear()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing that the command's user could do about: a connection that was cut, or a client that left."""
        log.debug("a connection to the metrics port ended early", exc_info=True)


class MetricsServer6(MetricsServer):
    """The same for IPv6."""

    address_family = socket.AF_INET6


class Handler(WSGIRequestHandler):
    """Serves one connection, without a line for each."""

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: who asks every few seconds is not worth a line."""


def serve_in_thread(host: str, port: int, application: Any) -> contextlib.AbstractContextManager[None]:
    """Listen, and serve while the block runs. OSError, at once, where that address cannot be listened at."""
    server = make_server(host, port, application, MetricsServer6 if ":" in host else MetricsServer, Handler)
    return _serving(server)


@contextlib.contextmanager
def _serving(server: WSGIServer) -> Iterator[None]:
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": _LOOK_EVERY_S}, name="tutelage-metrics", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


def _cut(request: socket.socket) -> None:
    """End a connection whose thread may be waiting in it: that one then reads its end."""
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)
