"""The memory that a script takes in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_BEFORE = """
import os, re
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10
import torch
from tutelage import FileSource, Limits, MemorySource, RaggedFormat, Student
from tutelage.tools.in_order import Counts, in_order
from tutelage.schemas.errors import TutelageError
before = peak()
"""
_AFTER = """
print(peak() - before)
"""


def peak_growth(script: str, folder: Path) -> tuple[int, str]:
    """How far a script takes its process's memory beyond what its imports took, in bytes, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _BEFORE + script + _AFTER],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *said, growth = done.stdout.splitlines()
    return int(growth), "\n".join(said)
