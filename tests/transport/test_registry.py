"""A registry over HTTP: its secrets reach it and nobody else, and what stands in the way is named."""

from __future__ import annotations

import base64
import copy
import json
import logging
import threading
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tutelage.schemas.errors import (
    AccessDenied,
    ConfigurationError,
    RegistryUnavailable,
    SchemaError,
    TutelageError,
)
from tutelage.transport.http_registry import HttpRegistry
from tutelage.transport.proxies import proxy_of
from tutelage.transport.registry_url import parsed_url

SECRET = "hunter2/4711+%"
# As it stands in a URL.
QUOTED = "hunter2%2F4711%2B%25"
SPELLINGS = ("hunter2", "4711", base64.b64encode(f"me:{SECRET}".encode()).decode())
Answer = tuple[int, bytes]


class FakeServer:
    """Answers every request alike, and keeps what was asked for."""

    def __init__(self) -> None:
        self.answer: Callable[[str], Answer] = lambda path: (200, b"[]")
        self.asked: list[tuple[str, str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.asked.append(
                    (self.command, self.path, self.headers.get("Authorization") or "")
                )
                status, body = outer.answer(self.path)
                self.send_response(status)
                self.send_header("Location", self.path)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST = _answer

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    made = FakeServer()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def failed(registry: HttpRegistry, kind: type[TutelageError] = TutelageError) -> str:
    """What a registry's error says, together with the traceback that Python would print."""
    with pytest.raises(kind) as told:
        registry.prepare("t-value")
    registry.close()
    return "".join(traceback.format_exception(told.value))


def test_a_query_goes_along_with_every_request_and_shows_nowhere(
    server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.answer = lambda path: (200, b'{"id": 7}' if "normalize" in path else b"[]")
    registry = HttpRegistry(f"http://{server.address}/apis/?apikey={QUOTED}&tenant=a,b")
    registry.prepare("t-value")
    assert registry.register("t-value", '"int"') == 7
    registry.close()
    query = f"apikey={QUOTED}&tenant=a,b"
    paths = [path for _, path, _ in server.asked]
    assert [path.partition("?")[0] for path in paths] == [
        "/apis/config/t-value",
        *["/apis/subjects/t-value/versions"] * 2,
    ]
    assert paths[0].endswith(f"?{query}")
    # What the client asks by itself stays.
    assert paths[1].endswith(f"deleted=false&deleted_only=false&offset=0&limit=-1&{query}")
    assert paths[2].endswith(f"?normalize=False&{query}")
    assert repr(registry) == f"HttpRegistry('http://{server.address}/apis')"
    assert registry.url == f"http://{server.address}/apis"
    assert "HTTP Request: PUT" in caplog.text
    assert not any(spelling in caplog.text for spelling in SPELLINGS)


def test_a_user_in_the_url_logs_in_and_shows_nowhere(
    server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.answer = lambda path: (
        500,
        f"not for me:{SECRET}, nor {SPELLINGS[2]} or {QUOTED}".encode(),
    )
    said = failed(
        HttpRegistry(f"http://me:{QUOTED}@{server.address}", settings={"max.retries": 0}),
        RegistryUnavailable,
    )
    assert {header for _, _, header in server.asked} == {f"Basic {SPELLINGS[2]}"}
    assert "HTTP 500" in said
    assert not any(spelling in said + caplog.text for spelling in SPELLINGS)


@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 404, 409, 500, 502])
def test_what_answers_with_the_secret_does_not_make_it_show(
    status: int, server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.answer = lambda path: (status, f"<html>no way to {path}</html>".encode())
    said = failed(
        HttpRegistry(f"http://{server.address}/?apikey={QUOTED}", settings={"max.retries": 0})
    )
    server.answer = lambda path: (
        status,
        json.dumps({"error_code": 40901, "message": f"no way to {path}, {SECRET}"}).encode(),
    )
    if status >= 400:
        said += failed(
            HttpRegistry(f"http://{server.address}/?apikey={QUOTED}", settings={"max.retries": 0})
        )
    assert server.asked
    assert not any(spelling in said + caplog.text for spelling in SPELLINGS)


def test_a_registry_that_is_away_is_named_without_its_secrets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    said = failed(
        HttpRegistry(
            f"http://me:{QUOTED}@127.0.0.1:1/apis?token={QUOTED}", settings={"max.retries": 0}
        ),
        RegistryUnavailable,
    )
    assert "HttpRegistry('http://127.0.0.1:1/apis') cannot be reached" in said
    assert not any(spelling in said + caplog.text for spelling in SPELLINGS)


def test_secrets_of_a_copy_stay_hidden(
    server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A DataLoader's worker gets a copy."""
    caplog.set_level(logging.DEBUG)
    again = copy.deepcopy(HttpRegistry(f"http://{server.address}?key={QUOTED}"))
    assert again.prepare("t-value") == []
    again.close()
    assert server.asked[-1][1].endswith(f"&key={QUOTED}")
    assert not any(spelling in caplog.text for spelling in SPELLINGS)


@pytest.mark.parametrize(
    "url",
    [
        f"http://me:{SECRET}@a:1",
        "http://me:hunter2?4711@a:1",
        "http://me:hunter2#4711@a:1",
        "http://4711:1/hunter2@a:1",
        "http://a:1/path#hunter2",
        "http://me:hunter2@",
        "http://me:hunter2@a:b",
        "http://me:hunter2@[a",
        "me:hunter2@a:1",
        "ftp://me:hunter2@a",
        "http://me:hunter2 4711@a:1",
        "http://me:hunter2@a,http://you:hunter2@b",
    ],
)
def test_a_url_that_is_refused_is_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError, match="the registry's URL") as told:
        HttpRegistry(url)
    assert not any(
        spelling in "".join(traceback.format_exception(told.value)) for spelling in SPELLINGS
    )


def test_a_user_is_named_once() -> None:
    with pytest.raises(ConfigurationError, match=r"both name a user") as told:
        HttpRegistry("http://me:hunter2@a", settings={"basic.auth.user.info": "me:hunter2"})
    assert "hunter2" not in str(told.value)


def test_several_places_of_one_registry_keep_their_own_queries() -> None:
    parts = parsed_url("http://a:1?k=hunter2, https://b/apis?k=4711")
    assert parts.shown == "http://a:1,https://b/apis"
    assert (parts.query_of("http://a:1/subjects"), parts.query_of("https://b/apis/subjects")) == (
        "k=hunter2",
        "k=4711",
    )
    assert "hunter2" not in repr(parts)


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": 3},
        {"url": None},
        {"url": ["http://a"]},
        {"timeout_s": 0},
        {"timeout_s": "3"},
        {"settings": "a=b"},
        {"auto_register": "no"},
    ],
    ids=str,
)
def test_arguments_of_a_registry_are_checked_at_the_call(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="URL" if "url" in wrong else next(iter(wrong))):
        HttpRegistry(**{"url": "http://a", **wrong})


@pytest.mark.parametrize(
    "answer",
    [
        (200, b"<html>hello</html>"),
        (404, b"<html>no</html>"),
        (302, b""),
        (200, b'"odd"'),
        (400, b"[]"),
    ],
)
def test_what_answers_and_is_no_registry_is_called_that(answer: Answer, server: FakeServer) -> None:
    server.answer = lambda path: answer
    said = failed(
        HttpRegistry(f"http://{server.address}", auto_register=False), RegistryUnavailable
    )
    assert "what answered is not a registry" in said
    assert "with its path?" in said


def test_a_registry_that_has_nothing_is_no_error(server: FakeServer) -> None:
    server.answer = lambda path: (404, b'{"error_code": 40401, "message": "Subject not found."}')
    registry = HttpRegistry(f"http://{server.address}", auto_register=False)
    assert registry.prepare("t-value") == []
    with pytest.raises(SchemaError, match="no longer has schema 7"):
        registry.schema(7)
    registry.close()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((200, b"<html>captive portal</html>"), RegistryUnavailable),
        ((407, b"log in"), AccessDenied),
        ((403, b"blocked"), AccessDenied),
        ((502, b"bad gateway"), RegistryUnavailable),
        ((404, b"<html>no</html>"), RegistryUnavailable),
    ],
)
def test_a_proxy_that_answers_oddly_is_named_without_its_password(
    answer: Answer,
    kind: type[TutelageError],
    server: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HTTP_PROXY", f"http://me:{QUOTED}@{server.address}")
    server.answer = lambda path: answer
    said = failed(HttpRegistry("http://registry.example:8081", settings={"max.retries": 0}), kind)
    assert (
        f"through the proxy {server.address}, which HTTP_PROXY names; NO_PROXY=registry.example"
        in said
    )
    assert server.asked[0][1].startswith("http://registry.example:8081/")
    assert not any(spelling in said + caplog.text for spelling in SPELLINGS)


def test_a_proxy_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, url in (
        ("HTTP_PROXY", "http://registry.example"),
        ("https_proxy", "https://registry.example"),
        ("ALL_PROXY", "http://r.example"),
    ):
        monkeypatch.setenv(name, f"http://me:{QUOTED}@127.0.0.1:1")
        said = failed(HttpRegistry(url, settings={"max.retries": 0}), RegistryUnavailable)
        assert f"through the proxy 127.0.0.1:1, which {name.upper()} names" in said
        assert not any(spelling in said for spelling in SPELLINGS)
        monkeypatch.delenv(name)
    said = failed(
        HttpRegistry(
            "http://r.example",
            settings={"max.retries": 0, "proxy": f"http://me:{QUOTED}@127.0.0.1:1"},
        )
    )
    assert (
        "through the proxy 127.0.0.1:1, which schema.registry.proxy names; is it the right one?"
        in said
    )
    assert not any(spelling in said for spelling in SPELLINGS)


def test_a_proxy_that_is_no_address_is_one_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for proxy in (
        f"http://me:{QUOTED}@proxy:port",
        f"ftp://me:{QUOTED}@proxy:1",
        f"socks5://me:{QUOTED}@proxy:1",
    ):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        said = failed(HttpRegistry("http://registry.example", settings={"max.retries": 0}))
        assert "through the proxy proxy:" in said
        assert not any(spelling in said for spelling in SPELLINGS)


def test_a_proxy_that_does_not_apply_is_not_named(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "example.com,127.0.0.1")
    server.answer = lambda path: (502, b"bad gateway")
    assert "proxy" not in failed(
        HttpRegistry(f"http://{server.address}", settings={"max.retries": 0}), RegistryUnavailable
    )
    assert server.asked


@pytest.mark.parametrize(
    ("url", "excepted", "applies"),
    [
        ("http://a.example", "", True),
        ("http://a.example", "*", False),
        ("http://a.example", "b.example, *", False),
        ("http://a.example", "a.example", False),
        ("http://a.example", "example", False),
        ("http://a.example", ".example", False),
        ("http://a.example", "*.example", False),
        ("http://aexample", "example", True),
        ("http://example", ".example", True),
        ("http://10.0.0.7", "10.0.0.7", False),
        ("http://10.0.0.7", "10.0.0.8", True),
        ("http://[::1]:8081", "::1", False),
        ("http://a.example:8081", "a.example:8081", False),
        ("https://a.example", "", False),
    ],
)
def test_a_proxy_applies_where_the_client_uses_it(
    url: str, excepted: str, applies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checked against the choice of the HTTP client itself."""
    httpx = pytest.importorskip("httpx2")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", excepted)
    assert (proxy_of(url) is not None) == applies
    with httpx.Client() as client:
        assert (client._transport_for_url(httpx.URL(url)) is not client._transport) == applies
