"""Real training programs under torchrun: no rank waits for others at an uneven end, and all ranks together learn what one learns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tutelage import FileSink, Teacher

PROGRAM = Path(__file__).with_name("torchrun_program.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of 17 to 24 rows, in records of two: every remainder of batches of 8."""
    folder = tmp_path_factory.mktemp("torchrun")
    generator = torch.Generator().manual_seed(0)
    for rows in range(17, 25):
        x = torch.randn(rows, 4, generator=generator)
        with Teacher(FileSink(folder / f"{rows}.avro"), rows_per_record=2) as teacher:
            teacher.write({"id": torch.arange(rows), "x": x, "y": x.sum(1)})
    return folder


def run(folder: Path, world: int, how: str) -> dict[str, Any]:
    """What a program of so many ranks learned."""
    command = [
        sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone",
        "--nproc-per-node", str(world), str(PROGRAM), how, str(folder),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "reads every row" not in done.stderr
    found: dict[str, Any] = torch.load(folder / f"{world}-{how}.pt", weights_only=True)
    return found


@pytest.mark.parametrize("how", ["ddp", "fsdp2"])
def test_all_ranks_together_learn_what_one_rank_learns_whatever_the_remainder(
    folder: Path, how: str
) -> None:
    alone = run(folder, 1, how)
    for world in (2, 4):
        for rows, (losses, weights) in run(folder, world, how).items():
            assert losses == pytest.approx(alone[rows][0], rel=1e-5), (world, rows)
            assert weights == pytest.approx(alone[rows][1], rel=1e-4, abs=1e-6), (world, rows)


def test_a_distributed_checkpoint_of_some_ranks_is_loaded_by_others(folder: Path) -> None:
    for world, first in ((2, 0), (4, 8), (1, 16)):
        assert run(folder, world, "save")["ids"] == list(range(first, first + 8))
