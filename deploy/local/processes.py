"""Processes of this machine, told apart by id and time of creation: an id alone may belong to another program by now.

Where an id was read from a file, the two are not enough: `belongs_to` looks at the process itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import psutil

_POLITE_TIMEOUT_S = 15.0
_FORCED_TIMEOUT_S = 15.0
_LOOK_EVERY_S = 0.05
_SETTLED_S = 1.0


def is_running(pid: int, created: float) -> bool:
    """Whether the process that was created then still runs; one that only waits to be reaped does not."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - created) >= 1:
            return False
        # A killed JVM is a zombie as soon as its first thread has ended; ports and locks are the others' until they end, too.
        return process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1
    except psutil.NoSuchProcess:
        return False


def belongs_to(pid: int, folder: Path, is_command: Callable[[Sequence[str]], bool]) -> bool:
    """Whether a process is this user's, works in a folder, and has a command line that `is_command` knows.

    A process that has ended belongs to nobody any more, and nothing can be done to it: True. One that is just ending, or just
    starting, has neither folder nor command line for a moment, so a process is called foreign only if it still is a little later.
    """
    deadline = time.monotonic() + _SETTLED_S
    while not (found := _looks_ours(pid, folder, is_command)) and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY_S)
    return found


def _looks_ours(pid: int, folder: Path, is_command: Callable[[Sequence[str]], bool]) -> bool:
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        if process.uids().effective != os.geteuid():
            return False
        return is_command(process.cmdline()) and folder.samefile(process.cwd())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return True
    except (psutil.AccessDenied, OSError):
        return False


def end(started: Iterable[tuple[int, float]], *, by_force: bool = False) -> None:
    """End processes, given by id and time of creation: all at once, politely, and by force what still runs after 15 seconds.

    Returns when none of them runs. Reaping them is for their parent, which may be another process.
    """
    ending = [each for each in started if is_running(*each)]
    if not by_force:
        for pid, created in ending:
            _signalled(pid, created, "terminate")
            # A paused one hears that it is to end only when it goes on.
            _signalled(pid, created, "resume")
        ending = _still_running(ending, _POLITE_TIMEOUT_S)
    for pid, created in ending:
        _signalled(pid, created, "kill")
    _still_running(ending, _FORCED_TIMEOUT_S)


def _signalled(pid: int, created: float, method: str) -> None:
    if is_running(pid, created):
        try:
            getattr(psutil.Process(pid), method)()
        except psutil.NoSuchProcess:
            return


def _still_running(ending: list[tuple[int, float]], timeout_s: float) -> list[tuple[int, float]]:
    """Those that still run when the time is over; returns as soon as none does."""
    deadline = time.monotonic() + timeout_s
    while (
        running := [each for each in ending if is_running(*each)]
    ) and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY_S)
    return running
