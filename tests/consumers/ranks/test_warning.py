"""Ranks that train together are told that each of them reads every row."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from tutelage import FileSink, Teacher

_RANK = """
import sys, logging
import torch.distributed as distributed
from tutelage import FileSource, Student

logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")
rank, world, store, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
student = Student()
student.register_teacher(FileSource(path))
with student:
    for _ in range(2):
        print(sum(len(batch["x"]) for batch in student.knowledge(4, pass_index=0)))
distributed.destroy_process_group()
"""


def ranks(world: int, folder: Path) -> list[str]:
    """What each rank of a program prints."""
    path = folder / "t.avro"
    with Teacher(FileSink(path, overwrite=True)) as teacher:
        teacher.write({"x": torch.arange(10)})
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _RANK, str(rank), str(world),
             str(folder / f"store{world}"), str(path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    try:
        return [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()


def test_each_of_two_ranks_is_told_once_that_it_reads_every_row(tmp_path: Path) -> None:
    for rank, said in enumerate(ranks(2, tmp_path)):
        assert said.count(f"rank {rank} of 2 reads every row of its teachers") == 1
        assert said.splitlines()[-2:] == ["10", "10"]


def test_a_single_rank_is_told_nothing(tmp_path: Path) -> None:
    assert ranks(1, tmp_path) == ["10\n10\n"]
