"""Files: what a teacher writes and a student reads, against the same tensors in a plain file through numpy."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Row, compared
from tutelage.consumers import FileSource, Student
from tutelage.producers import FileSink, Teacher

ROWS = 64
WIDTH = 1000
BATCHES = 1200
NBYTES = BATCHES * ROWS * (WIDTH * 4 + 8)


def batches() -> list[dict[str, torch.Tensor]]:
    """The knowledge that is moved: 256 KB a batch, made before the clock starts."""
    logits = torch.randn(ROWS, WIDTH)
    return [{"logits": logits + index, "label": torch.arange(ROWS) + index} for index in range(20)]


def run(rounds: int) -> dict[str, list[Row]]:
    """Write and read, each against numpy."""
    given = batches()
    with tempfile.TemporaryDirectory() as folder:
        plain, ours = Path(folder) / "plain.bin", Path(folder) / "ours.avro"

        def write_plain() -> float:
            began = time.perf_counter()
            with plain.open("wb", buffering=0) as file:
                for index in range(BATCHES):
                    for tensor in given[index % len(given)].values():
                        tensor.numpy().tofile(file)
                # A teacher's file is synced before it has its name; so is this one.
                os.fsync(file.fileno())
            return time.perf_counter() - began

        def write_ours() -> float:
            began = time.perf_counter()
            with Teacher(FileSink(ours, overwrite=True)) as teacher:
                teacher.serve(lambda index: given[index % len(given)], range(BATCHES))
            return time.perf_counter() - began

        def read_plain() -> float:
            logits, label = np.empty((ROWS, WIDTH), np.float32), np.empty(ROWS, np.int64)
            began = time.perf_counter()
            with plain.open("rb", buffering=0) as file:
                for _ in range(BATCHES):
                    for array in (logits, label):
                        file.readinto(array.data.cast("B"))
            return time.perf_counter() - began

        def read_ours() -> float:
            student = Student()
            student.register_teacher(FileSource(ours))
            with student:
                began = time.perf_counter()
                rows = sum(len(batch["label"]) for batch in student.knowledge(ROWS))
                took = time.perf_counter() - began
            assert rows == BATCHES * ROWS
            return took

        return {
            "offline write": compared({"plain file, numpy": write_plain, "tutelage": write_ours}, NBYTES, rounds=rounds),
            "offline read": compared({"plain file, numpy": read_plain, "tutelage": read_ours}, NBYTES, rounds=rounds),
        }
