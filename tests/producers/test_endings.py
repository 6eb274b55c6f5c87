"""However a teacher's program ends, its exit code is the one it asked for: threads inside torch are waited for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, sys, threading
import torch
from tutelage import FileSink, Teacher

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(700, 700) for _ in range(20))

    def forward(self, x):
        if float(x[0, 0]) == 3 and HOW == "error":
            raise ValueError("bad batch")
        for layer in self.layers:
            x = layer(x)
        return {"y": x}

HOW = sys.argv[1]

def progress(run):
    if HOW == "exit":
        sys.exit(3)
    if HOW == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)

def serve(teacher):
    batches = [torch.full((256, 700), float(i)) for i in range(8)]
    teacher.serve(Net(), batches, devices=["cpu", "cpu"], threads=3, progress=progress)

teacher = Teacher(FileSink("a.avro", overwrite=True), rows_per_record=64)
try:
    serve(teacher)
except ValueError:
    if len(sys.argv) > 2:
        sys.exit(0)
    raise
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["error"], 1),
        (["error", "caught"], 0),
        (["exit"], 3),
        (["interrupt"], -signal.SIGINT),
        (["normal"], 0),
    ],
)
def test_a_program_ends_with_the_exit_code_it_asked_for(
    arguments: list[str], code: int, tmp_path: Path
) -> None:
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments],
            cwd=tmp_path,
            # Threads of OpenMP too.
            env={**os.environ, "OMP_NUM_THREADS": "2"},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert "terminate called" not in done.stderr
