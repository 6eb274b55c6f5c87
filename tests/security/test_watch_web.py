"""`watch --web` answers who has the printed address, and nobody else: each way in is tried, at a real server."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tutelage.deploy.local.ports import free_ports

TUTELAGE = str(Path(sys.executable).parent / "tutelage")
SCREENS = 4


class Served:
    """A `watch --web` that looks at a broker that is not there."""

    def __init__(self, *flags: str) -> None:
        (self.port,) = free_ports(1)
        self.process = subprocess.Popen(
            [TUTELAGE, *flags, "watch", "t", "--web", "--web-port", str(self.port), "-b", "127.0.0.1:1"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stderr is not None
        said = ""
        while "?token=" not in said:
            assert self.process.poll() is None, said
            said = self.process.stderr.readline()
        found = re.search(r"open (http://(127\.0\.0\.1:\d+)/\?token=(\S+)) ", said)
        assert found is not None, said
        self.address, self.authority, self.token = found.groups()
        self.home = f"http://{self.authority}"
        self.socket = f"ws://{self.authority}/ws?width=80&height=24"
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                self.get("/")
                return
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
        """Status, headers and body, asked for without a cookie unless it is given."""
        return asyncio.run(self._get(path, headers))

    async def _get(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], str]:
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.get(f"{self.home}{path}", headers=headers, allow_redirects=False) as answer,
        ):
            return (
                answer.status,
                dict(answer.headers),
                (await answer.read()).decode(errors="replace"),
            )

    @property
    def cookie(self) -> str:
        """What the page's address is exchanged for."""
        status, headers, _ = self.get(f"/?token={self.token}")
        assert status == 200
        return headers["Set-Cookie"].split(";")[0]

    def children(self) -> list[psutil.Process]:
        """The processes that draw."""
        return [
            one
            for one in psutil.Process(self.process.pid).children(recursive=True)
            if one.status() != psutil.STATUS_ZOMBIE
        ]

    def end(self, how: int = signal.SIGTERM) -> tuple[str, str]:
        """End the server."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.communicate(timeout=60)
        finally:
            self.process.kill()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """One server for the tests that only ask it."""
    made = Served()
    try:
        yield made
    finally:
        made.end()


def in_a_session(
    served: Served, use: Callable[[aiohttp.ClientSession], Coroutine[Any, Any, None]]
) -> None:
    """Run with a client that has the cookie."""

    async def used() -> None:
        async with aiohttp.ClientSession(
            headers={"Cookie": cookie}, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            await use(session)
        # Connections are closed by the loop, once more around.
        await asyncio.sleep(0.1)

    cookie = served.cookie
    asyncio.run(used())


def test_the_printed_address_is_let_in_and_holds_nothing_from_elsewhere(served: Served) -> None:
    status, headers, page = served.get(f"/?token={served.token}")
    assert status == 200 and "tutelage watch" in page
    assert "HttpOnly" in headers["Set-Cookie"] and "SameSite=Strict" in headers["Set-Cookie"]
    assert headers["Referrer-Policy"] == "no-referrer" and headers["Cache-Control"] == "no-store"
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none';") and "frame-ancestors 'none'" in policy
    named = set(re.findall(r"(?:https?|wss?):?//[^\s\"';]+", page + policy))
    assert named == {f"ws://{served.authority}/ws"}
    assert served.token not in page
    for path in re.findall(r"(?:src|href)=\"(/[^\"]+)\"|url\(\"(/[^\"]+)\"\)", page):
        assert served.get("".join(path), Cookie=served.cookie)[0] == 200, path


@pytest.mark.parametrize(
    "path",
    ["/", "/static/js/textual.js", "/static/css/xterm.css", "/static/", "/download/x", "/ws"],
)
@pytest.mark.parametrize(
    "attempt",
    [
        "no token",
        "another token",
        "another host",
        "another port",
        "localhost",
        "no host",
        "another origin",
        "null origin",
        "another cookie",
    ],
)
def test_nobody_else_is_let_in(served: Served, path: str, attempt: str) -> None:
    query = {
        "no token": "",
        "another cookie": "",
        "another token": f"?token={served.token[:-1]}_",
    }.get(attempt, f"?token={served.token}")
    headers = {"Cookie": served.cookie}
    if attempt in ("no token", "another token"):
        headers = {}
    elif attempt == "another cookie":
        headers = {"Cookie": served.cookie[:-1] + "_"}
    elif "origin" in attempt:
        headers["Origin"] = "null" if attempt == "null origin" else "http://evil.example"
    else:
        hosts = {
            "another host": f"evil.example:{served.port}",
            "another port": "127.0.0.1:1",
            "localhost": f"localhost:{served.port}",
        }
        headers["Host"] = hosts.get(attempt, "")
    status, answered, body = served.get(path + query, **headers)
    # 400 is what the HTTP library says of a request without a host.
    assert status in (403, 400) and "Set-Cookie" not in answered and served.token not in body


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "http://evil.example",
        "null",
        "http://localhost:PORT",
        "https://127.0.0.1:PORT",
        "http://127.0.0.1:1",
    ],
)
def test_no_page_elsewhere_opens_the_screen(served: Served, origin: str | None) -> None:
    async def tried(session: aiohttp.ClientSession) -> None:
        headers = {} if origin is None else {"Origin": origin.replace("PORT", str(served.port))}
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(served.socket, headers=headers)
        assert refused.value.status == 403

    in_a_session(served, tried)
    assert not served.children()


async def screens(
    served: Served, session: aiohttp.ClientSession, count: int
) -> list[aiohttp.ClientWebSocketResponse]:
    """So many screens, each drawing."""
    opened = [
        await session.ws_connect(served.socket, headers={"Origin": served.home})
        for _ in range(count)
    ]
    for one in opened:
        assert b"\x1b[" in await one.receive_bytes(timeout=120)
    return opened


async def until(done: Callable[[], bool]) -> None:
    """Wait, a minute at most."""
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def test_few_screens_are_open_at_once_and_each_ends_with_its_browser(served: Served) -> None:
    async def used(session: aiohttp.ClientSession) -> None:
        opened = await screens(served, session, SCREENS)
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(served.socket, headers={"Origin": served.home})
        assert refused.value.status == 503
        assert len(served.children()) == SCREENS
        await opened[0].close()
        # A browser that goes without a word, and one that sends what is no message.
        assert opened[1]._response is not None
        opened[1]._response.close()
        await opened[2].send_str('{"no": "list"}')
        await until(lambda: len(served.children()) == 1)
        assert (await opened[2].receive(timeout=30)).type in (
            aiohttp.WSMsgType.BINARY,
            aiohttp.WSMsgType.CLOSE,
        )
        again = await screens(served, session, 1)
        for one in (*opened[2:], *again):
            await one.close()
        await until(lambda: not served.children())

    in_a_session(served, used)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_all_processes_end_with_the_server(how: int) -> None:
    served = Served("-vv")
    try:

        async def used(session: aiohttp.ClientSession) -> None:
            opened = await screens(served, session, 2)
            processes = served.children()
            assert len(processes) == 2
            for one in processes:
                # Neither the token nor a shell.
                assert served.token not in " ".join(one.cmdline()) + " ".join(
                    one.environ().values()
                )
                assert "sh" not in one.name().split("/")[-1].split(".")
            served.process.send_signal(how)
            await until(
                lambda: (
                    not any(
                        one.is_running() and one.status() != psutil.STATUS_ZOMBIE
                        for one in processes
                    )
                )
            )
            for each in opened:
                await each.close()

        in_a_session(served, used)
    finally:
        said = "".join(served.end(signal.SIGKILL))
    assert served.token not in said and urllib.parse.quote(served.token) not in said


def test_only_this_machine_can_connect(served: Served) -> None:
    listening = [
        one
        for one in psutil.Process(served.process.pid).net_connections()
        if one.status == psutil.CONN_LISTEN
    ]
    assert [(one.laddr.ip, one.laddr.port) for one in listening] == [("127.0.0.1", served.port)]


def test_a_port_that_is_taken_is_one_line(served: Served) -> None:
    ran = subprocess.run(
        [TUTELAGE, "watch", "t", "--web", "--web-port", str(served.port)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 2
    assert (
        ran.stderr.startswith(f"error: --web-port {served.port}: cannot listen there")
        and ran.stderr.count("\n") == 1
    )


def test_the_command_of_a_screen_is_run_without_a_shell(tmp_path: Path) -> None:
    forged = tmp_path / "forged"
    (port,) = free_ports(1)
    served = subprocess.Popen(
        [TUTELAGE, "watch", "t", "--group", f"$(touch {forged}); touch {forged} #", "--web", "--web-port", str(port), "-b", "127.0.0.1:1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert served.stderr is not None
        found = re.search(r"token=(\S+)", served.stderr.readline())
        assert found is not None

        async def used() -> None:
            async with aiohttp.ClientSession(
                headers={"Cookie": f"tutelage_watch_{port}={found[1]}"}
            ) as session:
                socket = await session.ws_connect(
                    f"ws://127.0.0.1:{port}/ws", headers={"Origin": f"http://127.0.0.1:{port}"}
                )
                assert b"\x1b[" in await socket.receive_bytes(timeout=120)
                child = psutil.Process(served.pid).children(recursive=True)
                assert (
                    len(child) == 1 and f"$(touch {forged}); touch {forged} #" in child[0].cmdline()
                )
                await socket.close()

        asyncio.run(used())
    finally:
        served.terminate()
        served.communicate(timeout=60)
    assert not forged.exists()
