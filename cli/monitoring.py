"""What orchestrators and Prometheus ask a running command: /metrics, /livez and /readyz, on a port of its own.

/livez    503 once the command has given no sign of life for a minute where it should: it hangs, and restarting it may help.
/readyz   503 while its streams are not open yet, and once it has waited half a minute for somebody else; the body says for whom.

A student that trains, however long a step takes, and a teacher whose model works are alive and ready.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tutelage.schemas.errors import ConfigurationError
from tutelage.schemas.printable import printable
from tutelage.transport.status import Activity

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

SILENT_AT_MOST_S = 60.0
WAITING_AT_MOST_S = 30.0
_TEXT = ("Content-Type", "text/plain; charset=utf-8")

MetricsFlag = Annotated[
    str | None,
    typer.Option(
        "--metrics-port", metavar="PORT", show_default=False,
        help="Serve Prometheus metrics, /livez and /readyz there, to this machine alone; 0.0.0.0:PORT for all who can reach it.",
    ),
]  # fmt: skip


@contextlib.contextmanager
def monitored(
    place: str | None, collector: Callable[[], Collector], activity: Callable[[], Activity]
) -> Iterator[None]:
    """Serve a command's metrics and health while the block runs; nothing, and no collector is made, if no place was given.

    Raises ConfigurationError for a place that is none, or is taken.
    """
    if place is None:
        yield
        return
    host, port = _host_and_port(place)
    from tutelage.cli.metrics_server import serve_in_thread

    try:
        served = serve_in_thread(host, port, _application(collector(), activity))
    except OSError as error:
        raise ConfigurationError(
            f"--metrics-port {place}: cannot listen there: {error.strerror or error}"
        ) from error
    with served:
        yield


def live(activity: Activity) -> tuple[bool, str]:
    """Whether a command is alive, and why."""
    if activity.silent_s > SILENT_AT_MOST_S:
        return False, f"no sign of life for {activity.silent_s:.0f} s while {activity.doing}"
    return True, f"{activity.doing} ({activity.seconds:.0f} s)"


def ready(activity: Activity) -> tuple[bool, str]:
    """Whether a command does, or could at once do, its work, and why."""
    said = f"{activity.doing} ({activity.seconds:.0f} s)"
    return activity.begun and not (activity.waiting and activity.seconds > WAITING_AT_MOST_S), said


def _application(collector: Collector, activity: Callable[[], Activity]) -> Any:
    from prometheus_client import (
        CollectorRegistry,
        PlatformCollector,
        ProcessCollector,
        make_wsgi_app,
    )

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    registry.register(collector)
    metrics: Any = make_wsgi_app(registry)
    checks = {"/livez": live, "/readyz": ready}

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        path = environ.get("PATH_INFO", "")
        if path in ("/", "/metrics"):
            return metrics(environ, start_response)
        if path not in checks:
            start_response(f"{HTTPStatus.NOT_FOUND.value} Not Found", [_TEXT])
            return [b"try /metrics, /livez or /readyz\n"]
        well, why = checks[path](activity())
        status = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
        start_response(f"{status.value} {status.phrase}", [_TEXT])
        return [f"{printable(why)}\n".encode()]

    return application


def _host_and_port(place: str) -> tuple[str, int]:
    match = re.fullmatch(r"(?:(?P<host>[^:]+|\[[0-9a-fA-F:]+\]):)?(?P<port>\d{1,5})", place)
    if match is None or int(match["port"]) > 65535:
        raise ConfigurationError(
            f"--metrics-port {place}: give it as PORT or HOST:PORT, the port from 0 to 65535"
        )
    return (match["host"] or "127.0.0.1").strip("[]"), int(match["port"])
