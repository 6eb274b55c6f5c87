"""A door before a registry: HTTPS, and a name and password or a token, as a reverse proxy asks for; what passes goes to the real one."""

from __future__ import annotations

import ssl
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Door:
    """Listens on a port of this machine. Lets through what carries one of `allowed` as its Authorization header."""

    def __init__(self, upstream: str, certificate: Path, key: Path, allowed: set[str]) -> None:
        base = upstream.partition("/apis")[0]

        class Handler(BaseHTTPRequestHandler):
            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Authorization") not in allowed:
                    self._answer(
                        401, b'{"error_code": 401, "message": "Unauthorized"}', "application/json"
                    )
                    return
                kind = self.headers.get("Content-Type", "application/json")
                request = urllib.request.Request(
                    base + self.path,
                    data=body or None,
                    method=self.command,
                    headers={"Content-Type": kind},
                )
                try:
                    with urllib.request.urlopen(request, timeout=10) as answer:
                        self._answer(
                            answer.status, answer.read(), answer.headers.get("Content-Type", "")
                        )
                except urllib.error.HTTPError as error:
                    self._answer(error.code, error.read(), error.headers.get("Content-Type", ""))

            do_GET = do_POST = do_PUT = do_DELETE = _pass

            def _answer(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}/apis/ccompat/v7"

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
