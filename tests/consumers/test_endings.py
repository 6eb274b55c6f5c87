"""A program that ends while a student reads: soon, with its own exit code and without a crash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tutelage import FileSink, Teacher

SCRIPT = """
import gc, os, sys
import torch
from tutelage import FileSource, Student
student = Student(merge={"x": MERGE}, timeout_s=20)
for name in NAMES:
    student.register_teacher(FileSource(name))
student.start()
batches = student.knowledge(4)
next(batches)
"""
LOADER = """
from torch.utils.data import DataLoader
del batches
batches = iter(DataLoader(student.dataset(4), batch_size=None, num_workers=1))
next(batches)
"""
FORK = """
child = os.fork()
if not child:
    try:
        next(batches) if ASKS else None
        [next(batches) for _ in range(20_000)]
    except Exception as error:
        print(type(error).__name__, flush=True)
    del batches, student
    gc.collect()
    sys.exit(4)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) + 1)
"""
ENDINGS = {
    "the end of the script": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "an error": ("raise ValueError('mine')", 1),
    "in the middle of a loop": ("for batch in batches: sys.exit(5)", 5),
    "dropped and collected": ("del student, batches; gc.collect(); sys.exit(6)", 6),
    "the student dropped, its iterator kept": (
        "del student; gc.collect(); next(batches); sys.exit(7)",
        7,
    ),
    "a cycle that nobody collects": (
        "class Kept: pass\nkept = Kept(); kept.own, kept.batches = kept, batches\ndel student, batches",
        0,
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files that take some time to merge."""
    for name in ("a.avro", "b.avro"):
        with Teacher(FileSink(tmp_path / name)) as teacher:
            teacher.write({"x": torch.rand(12288, 1024)})
    return tmp_path


def ended(folder: Path, ending: str, *, teachers: int, merge: str = "'mean'") -> tuple[int, str]:
    """Run a script; return its exit code and output."""
    names = ["a.avro", "b.avro"][:teachers]
    script = SCRIPT.replace("MERGE", merge).replace("NAMES", repr(names)) + ending
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "terminate called" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_ends_with_the_code_it_asked_for(folder: Path, ending: str) -> None:
    code, expected = ENDINGS[ending]
    assert ended(folder, code, teachers=2)[0] == expected


def test_a_program_whose_student_merges_nothing_ends_so_too(folder: Path) -> None:
    assert ended(folder, "sys.exit(3)", teachers=1)[0] == 3


def test_a_merge_function_that_is_under_way_is_waited_for(folder: Path) -> None:
    slow = "lambda tensors: [tensors[0].matmul(tensors[1].T).matmul(tensors[0]) for _ in range(30)][-1]"
    assert ended(folder, "sys.exit(3)", teachers=2, merge=slow)[0] == 3


def test_a_program_with_data_loader_workers_ends_with_the_code_it_asked_for(folder: Path) -> None:
    assert ended(folder, LOADER + "sys.exit(3)", teachers=2)[0] == 3
    assert ended(folder, LOADER + "raise ValueError", teachers=2)[0] == 1


def test_a_forked_child_ends_by_itself_and_leaves_the_parents_threads_alone(folder: Path) -> None:
    code, said = ended(folder, FORK.replace("ASKS", "True"), teachers=2)
    assert (code, "ConfigurationError" in said) == (5, True), said
