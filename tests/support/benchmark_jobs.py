"""What the benchmarks' processes are given to do in tests; they import it by name."""

from __future__ import annotations

import os
import time
from typing import Any


def answers(gate: Any, value: int) -> int:
    """Give back what was given."""
    gate.ready()
    return value


def fails(gate: Any) -> None:
    """Begin well, then fail."""
    gate.ready()
    raise ValueError("a peer broke")


def fails_at_once(gate: Any) -> None:
    """Never be ready."""
    raise ModuleNotFoundError("No module named 'a_peer'")


def ends(gate: Any) -> None:
    """End the process, as a crash would."""
    gate.ready()
    os._exit(3)


def waits_in_vain(gate: Any) -> None:
    """Wait for what does not come."""
    gate.ready()
    time.sleep(3600)
