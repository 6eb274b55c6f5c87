"""Processes of this machine, identified by id and creation time, because ids are reused.

For an id that was read from a file the two are not enough: `belongs_to` checks the process itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import psutil

_TERM_TIMEOUT_S = 15.0
_KILL_TIMEOUT_S = 15.0
_POLL_EVERY_S = 0.05
_SETTLE_S = 1.0


def is_running(pid: int, created: float) -> bool:
    """Whether a process still runs. One that has ended and was not reaped does not run."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - created) >= 1:
            return False
        # A killed JVM is a zombie as soon as its first thread has ended. Its other threads hold the
        # ports and locks until they end, too.
        return process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1
    except psutil.NoSuchProcess:
        return False


def belongs_to(pid: int, folder: Path, is_command: Callable[[Sequence[str]], bool]) -> bool:
    """Whether a process is this user's and was started as part of a stack.

    Args:
        pid: The process.
        folder: The folder that it must work in.
        is_command: Tells whether a command line is the expected one.

    Returns:
        True also for a process that has ended: nothing can be done to it. A process that is just
        starting or ending has no folder and no command line for a moment, so the answer is False
        only if the process still does not match after a second.
    """
    deadline = time.monotonic() + _SETTLE_S
    while not (found := _looks_ours(pid, folder, is_command)) and time.monotonic() < deadline:
        time.sleep(_POLL_EVERY_S)
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
    """End processes: SIGTERM to all, and SIGKILL to those that still run after 15 seconds.

    It returns when none of them runs. Their parent, which may be another process, must reap them.

    Args:
        started: The processes, by id and creation time.
        by_force: Send SIGKILL at once.
    """
    ending = [each for each in started if is_running(*each)]
    if not by_force:
        for pid, created in ending:
            _signal(pid, created, "terminate")
            # A paused process gets the signal only when it continues.
            _signal(pid, created, "resume")
        ending = _still_running(ending, _TERM_TIMEOUT_S)
    for pid, created in ending:
        _signal(pid, created, "kill")
    _still_running(ending, _KILL_TIMEOUT_S)


def _signal(pid: int, created: float, method: str) -> None:
    if is_running(pid, created):
        try:
            getattr(psutil.Process(pid), method)()
        except psutil.NoSuchProcess:
            return


def _still_running(ending: list[tuple[int, float]], timeout_s: float) -> list[tuple[int, float]]:
    """Wait until none runs or the time is over, and return those that still run."""
    deadline = time.monotonic() + timeout_s
    while (
        running := [each for each in ending if is_running(*each)]
    ) and time.monotonic() < deadline:
        time.sleep(_POLL_EVERY_S)
    return running
