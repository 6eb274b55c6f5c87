"""Serves the metrics and the health of a running command over HTTP: /metrics, /livez and /readyz.

/livez   503 if the command should have given a sign of life and has not for 60 s: it hangs, and a
         restart may help.
/readyz  503 until its streams are open, and while it has waited for more than 30 s. The body says
         for what.

A student that trains is live and ready, however long a step takes. So is a teacher whose model
works.
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

MOST_SILENT_S = 60.0
MOST_WAITING_S = 30.0
_TEXT = ("Content-Type", "text/plain; charset=utf-8")

MetricsFlag = Annotated[
    str | None,
    typer.Option(
        "--metrics-port",
        metavar="PORT",
        show_default=False,
        help="Serve Prometheus metrics, /livez and /readyz on this port, to this machine alone. "
        "With 0.0.0.0:PORT everybody who can reach the port can read them.",
    ),
]


@contextlib.contextmanager
def serve_metrics(
    address: str | None, collector: Callable[[], Collector], activity: Callable[[], Activity]
) -> Iterator[None]:
    """Serve a command's metrics and health while the block runs.

    Args:
        address: PORT or HOST:PORT. If None, nothing is served and no collector is made.
        collector: Makes the command's collector of metrics.
        activity: Returns what the command does now.

    Raises:
        ConfigurationError: The address is not valid, or it is in use.
    """
    if address is None:
        yield
        return
    host, port = _host_and_port(address)
    from tutelage.cli.metrics_server import serve_in_thread

    try:
        served = serve_in_thread(host, port, _application(collector(), activity))
    except OSError as error:
        raise ConfigurationError(
            f"--metrics-port {address}: cannot listen there: {error.strerror or error}"
        ) from error
    with served:
        yield


def liveness(activity: Activity) -> tuple[bool, str]:
    """Whether a command is live, and why."""
    if activity.silent_s > MOST_SILENT_S:
        return False, f"no sign of life for {activity.silent_s:.0f} s while {activity.doing}"
    return True, f"{activity.doing} ({activity.seconds:.0f} s)"


def readiness(activity: Activity) -> tuple[bool, str]:
    """Whether a command works, or could begin at once, and why."""
    waits = activity.waiting and activity.seconds > MOST_WAITING_S
    return activity.begun and not waits, f"{activity.doing} ({activity.seconds:.0f} s)"


def _application(collector: Collector, activity: Callable[[], Activity]) -> Any:
    """The WSGI application of the three paths."""
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
    checks = {"/livez": liveness, "/readyz": readiness}

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        path = environ.get("PATH_INFO", "")
        if path in ("/", "/metrics"):
            return metrics(environ, start_response)
        if path not in checks:
            start_response(f"{HTTPStatus.NOT_FOUND.value} Not Found", [_TEXT])
            return [b"try /metrics, /livez or /readyz\n"]
        passed, reason = checks[path](activity())
        status = HTTPStatus.OK if passed else HTTPStatus.SERVICE_UNAVAILABLE
        start_response(f"{status.value} {status.phrase}", [_TEXT])
        return [f"{printable(reason)}\n".encode()]

    return application


def _host_and_port(address: str) -> tuple[str, int]:
    match = re.fullmatch(r"(?:(?P<host>[^:]+|\[[0-9a-fA-F:]+\]):)?(?P<port>\d{1,5})", address)
    if match is None or int(match["port"]) > 65535:
        raise ConfigurationError(
            f"--metrics-port {address}: give it as PORT or HOST:PORT, the port from 0 to 65535"
        )
    return (match["host"] or "127.0.0.1").strip("[]"), int(match["port"])
