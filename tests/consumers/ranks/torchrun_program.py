"""A training program for torchrun: trains a small model on each file, with DDP or FSDP2, and writes what it learned.

python -m torch.distributed.run --nproc-per-node N torchrun_program.py HOW FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from tutelage import FileSource, Student

SIZE = 8


def train(path: Path, how: str) -> tuple[list[float], list[float]]:
    """One pass over a file; returns the loss of each batch over all ranks, and the weights learned."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    model: Any = DistributedDataParallel(module) if how == "ddp" else fully_shard(module)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    student = Student(shard="auto")
    student.register_teacher(FileSource(path))
    losses = []
    with student:
        for batch in student.knowledge(global_batch_size=SIZE, weight_key="weight", pad_empty=True):
            errors = (model(batch["x"])[:, 0] - batch["y"]) ** 2
            loss = (batch["weight"] * errors).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            both = loss.detach().clone()
            distributed.all_reduce(both, op=distributed.ReduceOp.SUM)
            losses.append(float(both) / distributed.get_world_size())
    weights = [
        each.full_tensor() if isinstance(each, DTensor) else each for each in module.parameters()
    ]
    return losses, torch.cat([each.detach().flatten() for each in weights]).tolist()


def save_and_go_on(folder: Path) -> list[list[int]]:
    """The ids of the batches behind the state that torch.distributed.checkpoint holds; saved behind the next."""
    student = Student(shard="auto")
    student.register_teacher(FileSource(folder / "24.avro"))
    with student:
        if (folder / "saved").exists():
            load({"student": student}, checkpoint_id=folder / "saved")
        batches = student.knowledge(global_batch_size=SIZE)
        found = [next(batches)["id"].tolist()]
        distributed.barrier()
        save({"student": student}, checkpoint_id=folder / "saved")
        batches.close()
    return found


def main() -> None:
    """Train on every file of the folder, and write `WORLD-HOW.pt`."""
    how, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank, world = distributed.get_rank(), distributed.get_world_size()
    if how == "save":
        parts: list[Any] = [None] * world
        distributed.all_gather_object(parts, save_and_go_on(folder))
        found: dict[str, Any] = {
            "ids": sorted(each for part in parts for ids in part for each in ids)
        }
    else:
        found = {path.stem: train(path, how) for path in sorted(folder.glob("*.avro"))}
    if rank == 0:
        torch.save(found, folder / f"{world}-{how}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
