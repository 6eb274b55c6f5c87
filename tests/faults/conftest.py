"""The cluster of the fault matrix, the order of its rows (shuffled by a printed seed), and the table at the end."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from faults.cluster import LESSON, Cluster, Outcome, cluster
from tutelage.deploy.local import StackError

SEED_VARIABLE = "TUTELAGE_FAULT_SEED"
_OUTCOME = "outcome"
# The rows that have ended, each an `Outcome` as a dict. xdist's workers send theirs with the test reports.
_outcomes: list[dict[str, Any]] = []
# xdist's workers inherit the variable, since all of them must collect the tests in the same order.
_seed = int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().randrange(10**6))
os.environ[SEED_VARIABLE] = str(_seed)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Shuffle the matrix: a fault must not need another before it."""
    here = [item for item in items if Path(item.fspath).parent == Path(__file__).parent]
    shuffled = random.Random(_seed).sample(here, len(here))
    places = [index for index, item in enumerate(items) if item in here]
    for place, item in zip(places, shuffled, strict=True):
        items[place] = item


def pytest_report_header() -> str:
    """The seed, so that an order can be had again."""
    return f"fault matrix: order by {SEED_VARIABLE}={_seed}"


@pytest.fixture(scope="session")
def whole_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three brokers behind proxies, and the digest of a run without faults."""
    try:
        with cluster(tmp_path_factory.mktemp("cluster")) as made:
            folder = tmp_path_factory.mktemp("reference")
            taught = made.begin(
                "teach", LESSON, "--out", "whole.avro", cwd=folder, LESSON_SECONDS="0"
            )
            assert taught.ended()[0] == 0
            learned = made.begin("learn", "whole.avro", "--json", "--batch-size", "32", cwd=folder)
            code, out, err = learned.ended()
            assert code == 0, err
            made.digest = json.loads(out)["digest"]
            yield made
    except (StackError, RuntimeError) as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI must run the fault matrix: {error}")
        pytest.skip(str(error))


@pytest.fixture
def running(whole_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, whole before each row and after it."""
    yield whole_cluster
    whole_cluster.proxies.heal()
    alive = whole_cluster.stack.processes()
    for name in alive:
        try:
            whole_cluster.stack.resume(name)
        except StackError:
            whole_cluster.stack.restart(name)
    whole_cluster.stack.await_ready()


@pytest.fixture
def outcome(request: pytest.FixtureRequest) -> Iterator[Outcome]:
    """This row of the table: its number is in the test's name, the fault in its first line of documentation."""
    function = request.function
    found = Outcome(
        row=int(function.__name__.split("_")[1]),
        fault=(function.__doc__ or "").strip().splitlines()[0].rstrip("."),
    )
    began = time.monotonic()
    yield found
    found.seconds = time.monotonic() - began
    request.node.user_properties.append((_OUTCOME, asdict(found)))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a row that has ended, in whichever process."""
    if report.when == "teardown":
        _outcomes.extend(value for name, value in report.user_properties if name == _OUTCOME)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table."""
    if not _outcomes:
        return
    terminalreporter.section(f"fault matrix, {SEED_VARIABLE}={_seed}")
    heads = ("row", "fault", "what was done", "batches", "dup.", "zomb.", "stall s", "s", "verdict")
    rows = [
        (
            str(o["row"]),
            o["fault"],
            o["done"],
            str(o["batches"]),
            str(o["duplicates"]),
            str(o["zombies"]),
            f"{o['stall_s']:.1f}",
            f"{o['seconds']:.0f}",
            o["verdict"] or "FAILED",
        )
        for o in sorted(_outcomes, key=lambda o: o["row"])
    ]
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    for row in (heads, *rows):
        terminalreporter.write_line(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        )
