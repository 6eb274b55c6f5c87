"""Health: what is alive, what is ready, and what is said where it is not."""

from __future__ import annotations

import socket
import time

import pytest

from tutelage.cli.monitoring import liveness, readiness, serve_metrics
from tutelage.schemas.errors import ConfigurationError
from tutelage.transport.status import Activity, Status
from tutelage.transport.waiting import Wait


@pytest.mark.parametrize(
    ("activity", "alive", "is_ready"),
    [
        (Activity(doing="training on a batch", seconds=4000), True, True),
        (
            Activity(doing="waiting for topic t to appear", seconds=3, begun=False, waiting=True),
            True,
            False,
        ),
        (
            Activity(
                doing="waiting for topic t, partition 2, record 4711", seconds=20, waiting=True
            ),
            True,
            True,
        ),
        (
            Activity(
                doing="waiting for topic t, partition 2, record 4711", seconds=40, waiting=True
            ),
            True,
            False,
        ),
        (Activity(doing="teaching", seconds=500, silent_s=30), True, True),
        (Activity(doing="teaching", seconds=500, silent_s=90), False, True),
    ],
)
def test_alive_and_ready_mean_something(activity: Activity, alive: bool, is_ready: bool) -> None:
    for check, expected in ((liveness, alive), (readiness, is_ready)):
        well, why = check(activity)
        assert well is expected
        assert activity.doing in why


def test_who_beats_is_alive_and_who_waits_says_for_what(caplog: pytest.LogCaptureFixture) -> None:
    import logging

    doing = Status("starting")
    assert not doing.activity.begun and doing.activity.silent_s == 0
    doing.now("teaching", beats=True)
    time.sleep(0.02)
    assert doing.activity.silent_s >= 0.02
    doing.beat()
    assert doing.activity.silent_s < 0.02
    doing.wait = Wait("record 7", timeout_s=60, log=logging.getLogger())
    assert doing.activity.waiting and doing.activity.doing == "waiting for record 7"
    doing.wait = None
    doing.now("training")
    time.sleep(0.02)
    assert doing.activity.silent_s == 0


@pytest.mark.parametrize("place", ["x", "70000", "1.2.3.4", "host:port", ":9404"])
def test_a_place_that_is_none_is_refused(place: str) -> None:
    with (
        pytest.raises(ConfigurationError, match="give it as PORT or HOST:PORT"),
        serve_metrics(place, lambda: None, lambda: None),  # type: ignore[arg-type, return-value]
    ):
        pass


def test_a_port_that_is_taken_is_said() -> None:
    from prometheus_client.registry import Collector

    class Nothing(Collector):
        def collect(self) -> list[object]:  # type: ignore[override]
            return []

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = str(taken.getsockname()[1])
        with (
            pytest.raises(ConfigurationError, match="cannot listen there"),
            serve_metrics(place, Nothing, lambda: Activity(doing="", seconds=0)),
        ):
            pass
