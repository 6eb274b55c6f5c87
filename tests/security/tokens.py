"""A place that gives OAuth tokens: signed by a key the broker knows, over HTTP on this machine, good ones and expired ones."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jwt
from joserfc.jwk import RSAKey

ISSUER = "https://tokens.test"
AUDIENCE = "kafka"


class Tokens:
    """Gives a token to each client whose secret it knows. `lifetime_s` below zero gives expired ones."""

    def __init__(self, secrets: dict[str, str]) -> None:
        self._key = RSAKey.generate_key(2048, {"kid": "test", "use": "sig", "alg": "RS256"})
        self.lifetime_s = 300
        tokens = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                scheme, _, encoded = self.headers.get("Authorization", "").partition(" ")
                client, _, secret = (
                    base64.b64decode(encoded).decode().partition(":")
                    if scheme == "Basic"
                    else ("", "", "")
                )
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if secrets.get(client) != secret:
                    self._answer(401, {"error": "invalid_client"})
                    return
                self._answer(
                    200,
                    {
                        "access_token": tokens.token(client),
                        "token_type": "Bearer",
                        "expires_in": tokens.lifetime_s,
                    },
                )

            def _answer(self, status: int, value: dict[str, Any]) -> None:
                body = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/token"

    @property
    def jwks(self) -> str:
        """The public key, as a broker reads it."""
        return json.dumps({"keys": [self._key.as_dict(private=False)]})

    def token(self, subject: str) -> str:
        """A token of a client."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "iat": now - 600,
            "exp": now + self.lifetime_s,
        }
        return jwt.encode({"alg": "RS256", "kid": "test"}, claims, self._key)

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
