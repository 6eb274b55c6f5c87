"""`watch --web`: textual-serve with access control. A process draws the screen of each browser.

Only this machine can connect, but any web page in a browser on this machine can send requests. A
request is therefore answered only if it has the token of the printed address (or the cookie that
was set for it), names the printed address as its host, and does not come from another page. The
page loads nothing from other servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
import socket
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any

from aiohttp import WSCloseCode, web
from textual_serve.app_service import AppService
from textual_serve.server import Server, to_int

from tutelage.cli.printing import say
from tutelage.schemas.errors import ConfigurationError

_HOST = "127.0.0.1"
_PORT_OF_HTTP = 80
# Each screen is a process that queries the brokers every second.
_MOST_SCREENS = 4
# Messages are keys and window sizes; pasted text is the longest.
_MOST_MESSAGE_BYTES = 64 << 10
_MOST_CELLS = 1000
# A process that does not end in this time is killed. It may be waiting for a broker.
_END_S = 3.0
_FONT_SIZES = (6, 72)
_ALWAYS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WatchServer(Server):
    """Serves the screen of a command at an address that cannot be guessed.

    Args:
        arguments: The command, which is run without a shell.
        port: Where it listens, on 127.0.0.1 alone.
    """

    def __init__(self, arguments: Sequence[str], *, port: int) -> None:
        super().__init__("tutelage watch", host=_HOST, port=port, title="tutelage watch")
        self._arguments = arguments
        self._authority = _HOST if port == _PORT_OF_HTTP else f"{_HOST}:{port}"
        self._token = secrets.token_urlsafe(32)
        # Browsers send a cookie to all ports of a host.
        self._cookie = f"tutelage_watch_{port}"
        self._sockets: set[web.WebSocketResponse] = set()
        self._page = files("tutelage.cli").joinpath("watch_page.html").read_text(encoding="utf-8")

    @property
    def address(self) -> str:
        """The address to open in a browser."""
        return f"http://{self._authority}/?token={self._token}"

    def serve(self, debug: bool = False) -> None:
        """Print the address and serve until Ctrl-C or SIGTERM; all processes end with it.

        Raises:
            ConfigurationError: The port is taken.
        """
        try:
            listener = socket.create_server((_HOST, self.port))
        except OSError as error:
            raise ConfigurationError(
                f"--web-port {self.port}: cannot listen there: {error.strerror or error}"
            ) from error
        say(f"open {self.address} (Ctrl-C ends)", error=True)
        # No access log: it would contain the token.
        web.run_app(
            self._make_app(),
            sock=listener,
            access_log=None,
            print=None,
            shutdown_timeout=2 * _END_S,
        )

    async def _make_app(self) -> web.Application:
        app = web.Application(middlewares=[self._guarded], client_max_size=_MOST_MESSAGE_BYTES)
        app.add_routes(
            (
                web.get("/", self.handle_index),
                web.get("/ws", self.handle_websocket),
                web.get("/download/{key}", self.handle_download),
                web.static("/static", self.statics_path),
            )
        )
        app.on_response_prepare.append(_harden)
        app.on_shutdown.append(self.on_shutdown)
        return app

    async def on_shutdown(self, app: web.Application) -> None:
        """End the screens."""
        await asyncio.gather(
            *(each.close(code=WSCloseCode.GOING_AWAY) for each in list(self._sockets)),
            return_exceptions=True,
        )

    @web.middleware
    async def _guarded(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Answer authorized requests, and refuse all others with the reason."""
        if request.headers.getall("Host", []) != [self._authority]:
            raise web.HTTPForbidden(text="the address is not the one that was printed\n")
        origins = request.headers.getall("Origin", [])
        # Browsers send Origin with every WebSocket, and with other requests from another page.
        if origins != [f"http://{self._authority}"] and (origins or request.path == "/ws"):
            raise web.HTTPForbidden(text="another page asks for this\n")
        with_token = request.path == "/" and self._is_token(request.query.get("token", ""))
        if not with_token and not self._is_token(request.cookies.get(self._cookie, "")):
            raise web.HTTPForbidden(
                text="open the address that `tutelage watch --web` printed, with its token\n"
            )
        response = await handler(request)
        if with_token:
            response.set_cookie(
                self._cookie, self._token, httponly=True, samesite="Strict", path="/"
            )
        return response

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(errors="replace"), self._token.encode())

    async def handle_index(self, request: web.Request) -> web.Response:
        """The page with the terminal of textual-serve, without external resources."""
        nonce = secrets.token_urlsafe(16)
        smallest, largest = _FONT_SIZES
        size = min(largest, max(smallest, to_int(request.query.get("fontsize", "16"), 16)))
        page = self._page
        for name, value in (
            ("nonce", nonce),
            ("websocket", f"ws://{self._authority}/ws"),
            ("font_size", str(size)),
        ):
            page = page.replace(f"{{{{ {name} }}}}", value)
        # The terminal creates style elements.
        policy = (
            f"default-src 'none'; script-src 'self' 'nonce-{nonce}'; "
            "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; "
            f"connect-src ws://{self._authority}/ws; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )
        return web.Response(
            text=page, content_type="text/html", headers={"Content-Security-Policy": policy}
        )

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """Serve the screen of one browser, by a process that ends with the connection."""
        if len(self._sockets) >= _MOST_SCREENS:
            raise web.HTTPServiceUnavailable(
                text=f"{_MOST_SCREENS} screens are open already; close one\n"
            )
        websocket = web.WebSocketResponse(
            heartbeat=15, timeout=_END_S, max_msg_size=_MOST_MESSAGE_BYTES
        )
        screen = _Screen(
            self._arguments,
            write_bytes=websocket.send_bytes,
            write_str=websocket.send_str,
            close=websocket.close,
            download_manager=self.download_manager,
        )
        self._sockets.add(websocket)
        try:
            await websocket.prepare(request)
            width, height = (
                min(_MOST_CELLS, max(1, to_int(request.query.get(name, ""), 80)))
                for name in ("width", "height")
            )
            await screen.start(width, height)
            # A malformed message ends the connection.
            with contextlib.suppress(
                ValueError, TypeError, LookupError, AttributeError, AssertionError
            ):
                await self._process_messages(websocket, screen)
        finally:
            # Runs also when the server shuts down and cancels this.
            await asyncio.shield(screen.stop())
            self._sockets.discard(websocket)
        await websocket.close()
        return websocket


class _Screen(AppService):
    """A process that draws the screen: started without a shell, and killed if it does not end."""

    def __init__(self, arguments: Sequence[str], **settings: Any) -> None:
        super().__init__("", **settings)
        self._arguments = arguments

    async def _open_app_process(self, width: int = 80, height: int = 24) -> Process:
        environment = self._build_environment(width=width, height=height)
        process = await asyncio.create_subprocess_exec(
            *self._arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment
        )
        self._process, self._stdin = process, process.stdin
        return process

    async def stop(self) -> None:
        """Ask the process to end, and kill it if it does not."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(asyncio.TimeoutError, ConnectionError):
            await asyncio.wait_for(super().stop(), _END_S)
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()


async def _harden(request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _ALWAYS.items():
        response.headers[name] = value
