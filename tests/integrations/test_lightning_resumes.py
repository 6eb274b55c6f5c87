"""A Lightning training that was killed and goes on gives what it would have given: bit for bit, on one rank and on two."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.lightning_program import Training, described, write

from tutelage import FileSink

TESTS = Path(__file__).resolve().parents[1]
# 25 rows are 5 batches of 6, of which the last has one row: of two ranks, one has none of it.
ROWS, SIZE, STEPS = 25, 6, 15
TIMEOUT_S = 200

pytestmark = pytest.mark.timeout(4 * TIMEOUT_S)


def run(training: Training) -> int:
    """Run a training in processes of its own; return the exit status."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(TESTS / "support" / "lightning_program.py"), described(training)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, said = process.communicate(timeout=TIMEOUT_S)
        print(said)
    finally:
        # Its ranks are in its process group; nothing else is.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode


def results(training: Training) -> list[dict[str, Any]]:
    """What each rank of a training that came to its end has written."""
    paths = [Path(training.out, f"result-{rank}.json") for rank in range(training.ranks)]
    return [json.loads(path.read_text()) for path in paths]


def rows_of(found: list[dict[str, Any]]) -> list[list[int]]:
    """The rows of each step, of all ranks together."""
    steps = zip(*(each["steps"] for each in found), strict=True)
    return [[row for _, ids, _ in ranks for row in ids] for ranks in steps]


def losses_of(found: list[dict[str, Any]]) -> list[float]:
    """The loss of each step over all ranks."""
    steps = zip(*(each["steps"] for each in found), strict=True)
    return [sum(loss for *_, loss in ranks) / len(ranks) for ranks in steps]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file of two passes."""
    folder = tmp_path_factory.mktemp("lightning")
    write(FileSink(folder / "knowledge.avro"), ROWS)
    yield folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> Training:
    """A training of one rank that nothing interrupts."""
    training = Training(file=str(folder / "knowledge.avro"), out=str(folder / "whole"), size=SIZE)
    assert run(training) == 0
    return training


def test_one_rank_killed_in_a_pass_goes_on_bit_for_bit(folder: Path, whole: Training) -> None:
    training = replace(whole, out=str(folder / "killed"))
    assert run(replace(training, kill=8)) == -signal.SIGKILL
    assert not list(Path(training.out).glob("result-*"))
    assert run(replace(training, resume=7)) == 0
    (expected,), (found,) = results(whole), results(training)
    assert len(expected["steps"]) == STEPS
    assert found == {**expected, "steps": expected["steps"][7:]}


def test_two_ranks_with_an_uneven_end_learn_what_one_learns_and_go_on_bit_for_bit_when_one_is_killed(
    folder: Path, whole: Training
) -> None:
    two = replace(whole, out=str(folder / "two"), ranks=2)
    assert run(two) == 0
    alone, both = results(whole), results(two)
    assert rows_of(both) == rows_of(alone)
    assert losses_of(both) == pytest.approx(losses_of(alone), rel=1e-4)
    assert both[0]["weights"] == both[1]["weights"]

    killed = replace(two, out=str(folder / "two-killed"))
    assert run(replace(killed, kill=8)) != 0
    assert run(replace(killed, resume=7)) == 0
    assert results(killed) == [{**each, "steps": each["steps"][7:]} for each in both]

    # Its checkpoint is loaded by one rank too.
    assert run(replace(killed, resume=4, ranks=1)) == 0
    assert rows_of(results(replace(killed, ranks=1))) == rows_of(alone)[4:]
