"""The HTTP server of `--metrics-port`: prometheus_client's, with limits on connections and time.

Clients are not trusted. A silent or slow connection must not block Prometheus or a health check,
use unbounded memory or threads, or outlive the command.
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

# Answering takes milliseconds.
_CONNECTION_S = 5.0
# Each connection has a thread. Prometheus and a kubelet need one each.
_MOST_CONNECTIONS = 16
# The interval at which connections are checked, and the most that closing takes.
_CHECK_EVERY_S = 0.1


class MetricsServer(ThreadingWSGIServer):
    """Serves each connection in a thread.

    Guarantee: a new connection is always served. If there are too many, the oldest is closed.
    """

    # Connections that wait for `accept`.
    request_queue_size = 64

    def __init__(self, *args: Any, **settings: Any) -> None:
        self._lock = threading.Lock()
        #: Open connections, the oldest first -> when they were opened.
        self._open: dict[socket.socket, float] = {}
        super().__init__(*args, **settings)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection, and close the oldest if there are too many."""
        with self._lock:
            if len(self._open) >= _MOST_CONNECTIONS:
                oldest = next(iter(self._open))
                _cut(oldest)
                del self._open[oldest]
            self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Close connections that have been open for too long. Called several times a second."""
        now = time.monotonic()
        with self._lock:
            for request, since in list(self._open.items()):
                if now - since > _CONNECTION_S:
                    _cut(request)
                    del self._open[request]

    def server_close(self) -> None:
        """Stop listening, and close the remaining connections."""
        super().server_close()
        with self._lock:
            for request in self._open:
                _cut(request)
            self._open.clear()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a connection that ended early. The command's user cannot do anything about it."""
        log.debug("a connection to the metrics port ended early", exc_info=True)


class MetricsServer6(MetricsServer):
    """The same for IPv6."""

    address_family = socket.AF_INET6


class Handler(WSGIRequestHandler):
    """Serves one connection without logging it."""

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: clients ask every few seconds."""


def serve_in_thread(
    host: str, port: int, application: Any
) -> contextlib.AbstractContextManager[None]:
    """Listen at once and serve while the block runs. OSError if the address cannot be used."""
    server = make_server(
        host, port, application, MetricsServer6 if ":" in host else MetricsServer, Handler
    )
    return _serving(server)


@contextlib.contextmanager
def _serving(server: WSGIServer) -> Iterator[None]:
    thread = threading.Thread(
        target=server.serve_forever,
        kwargs={"poll_interval": _CHECK_EVERY_S},
        name="tutelage-metrics",
        daemon=True,
    )
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


def _cut(request: socket.socket) -> None:
    """Shut a connection down. A thread that waits for data then reads its end."""
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)
