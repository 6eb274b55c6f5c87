"""A Trainer, or a loop with accelerate, that goes on gives what it would have given: bit for bit, on one rank and on two."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.trainer_program import Training, described, run, run_loop, write

TESTS = Path(__file__).resolve().parents[1]
# 25 rows are 5 batches of 6, of which the last has one row: of two ranks, one has none of it. Two
# batches are a step, so that steps reach over the ends of passes; three passes are 8 steps.
ROWS, SIZE, STEPS = 25, 6, 8
TIMEOUT_S = 280

pytestmark = pytest.mark.timeout(700)


def started(ranks: int, *trainings: Training) -> int:
    """Run trainings one behind the other in a program of so many ranks; return its exit status."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    program = [str(TESTS / "support" / "trainer_program.py"), described(*trainings)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, *(torchrun if ranks > 1 else []), *program],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, said = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        # Its ranks are in its process group; nothing else is.
        os.killpg(process.pid, signal.SIGKILL)
        raise
    print(said)
    return process.returncode


def result_of(training: Training) -> dict[str, Any]:
    """What a training that came to its end has written."""
    found: dict[str, Any] = json.loads(Path(training.out, "result.json").read_text())
    return found


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As the program has it: sums of several threads may differ in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A training that nothing interrupts, with dropout."""
    folder = tmp_path_factory.mktemp("knowledge")
    write(folder / "knowledge.avro", ROWS)
    return Training(
        file=str(folder / "knowledge.avro"), out=str(folder / "whole"), share=SIZE, rows=ROWS
    )


@pytest.fixture(scope="module")
def expected(whole: Training) -> dict[str, Any]:
    """What it gives on one rank."""
    return run(whole)


@pytest.fixture(scope="module")
def steady(whole: Training) -> Training:
    """The same without dropout, so that several ranks compute what one does."""
    return replace(whole, dropout=0.0, out=whole.out + "-steady")


@pytest.fixture(scope="module")
def expected_steady(steady: Training) -> dict[str, Any]:
    """What it gives on one rank."""
    return run(steady)


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A loop with accelerate."""
    folder = tmp_path_factory.mktemp("loop")
    write(folder / "knowledge.avro", ROWS, equal=True)
    return Training(
        file=str(folder / "knowledge.avro"),
        out=str(folder / "whole"),
        share=SIZE,
        rows=ROWS,
        loop=True,
    )


@pytest.fixture(scope="module")
def expected_loop(loop: Training) -> dict[str, Any]:
    """What it gives on one rank."""
    return run_loop(loop)


def check_close(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Each step logged the same, but for the order of sums."""
    assert [line["step"] for line in wanted["logged"]] == list(range(1, STEPS + 1))
    for ours, theirs in zip(found["logged"], wanted["logged"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4), ours["step"]


@pytest.mark.parametrize("killed", [{"kill": 6}, {"kill_saving": 6}], ids=str)
def test_a_killed_run_goes_on_to_the_same_losses_and_weights(
    tmp_path: Path, whole: Training, expected: dict[str, Any], killed: dict[str, Any]
) -> None:
    assert started(1, replace(whole, out=str(tmp_path), **killed)) == -signal.SIGKILL
    saved = {path.name for path in tmp_path.iterdir()}
    # What was being written is there too, and is passed over.
    assert saved == {"checkpoint-2", "checkpoint-4"} | (
        {"checkpoint-6"} if "kill_saving" in killed else set()
    )
    assert run(replace(whole, out=str(tmp_path), resume=True)) == expected


class Stopped(Exception):
    """In place of SIGKILL, in this process."""


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_run_that_ends_before_any_step_goes_on_to_the_same_losses_and_weights(
    tmp_path: Path,
    whole: Training,
    expected: dict[str, Any],
    step: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(process: int, signal_: int) -> None:
        raise Stopped

    monkeypatch.setattr("support.trainer_program.os.kill", stop)
    with pytest.raises(Stopped):
        run(replace(whole, out=str(tmp_path), kill=step))
    assert run(replace(whole, out=str(tmp_path), resume=True)) == expected


def test_a_loop_with_accelerate_goes_on_to_the_same_losses_and_weights(
    tmp_path: Path, loop: Training, expected_loop: dict[str, Any]
) -> None:
    first = run_loop(replace(loop, out=str(tmp_path), until=2))
    second = run_loop(replace(loop, out=str(tmp_path), resume=True))
    assert [*first["logged"], *second["logged"]] == expected_loop["logged"]
    assert second["weights"] == expected_loop["weights"]
    assert len(expected_loop["logged"]) == 5


def test_two_ranks_learn_what_one_learns_and_go_on_when_one_of_them_is_killed(
    tmp_path: Path,
    whole: Training,
    steady: Training,
    expected_steady: dict[str, Any],
    loop: Training,
    expected_loop: dict[str, Any],
) -> None:
    two = replace(whole, share=SIZE // 2, out=str(tmp_path / "two"))
    two_steady = replace(steady, share=SIZE // 2, out=str(tmp_path / "steady"))
    killed = replace(two, out=str(tmp_path / "killed"), kill=6, rank=1)
    assert started(2, two_steady, two, killed) != 0
    check_close(result_of(two_steady), expected_steady)
    assert not Path(killed.out, "result.json").exists()

    resumed = replace(killed, kill=0, resume=True)
    # A checkpoint of one rank goes on with two.
    shutil.copytree(Path(steady.out, "checkpoint-4"), tmp_path / "other" / "checkpoint-4")
    other = replace(two_steady, out=str(tmp_path / "other"), resume=True)
    two_loop = replace(loop, share=SIZE // 2, out=str(tmp_path / "loop"))
    assert started(2, two_loop, resumed, other) == 0
    assert result_of(two_loop)["logged"] == pytest.approx(expected_loop["logged"], rel=1e-4)
    assert result_of(resumed) == result_of(two)
    check_close(result_of(other), expected_steady)
