"""Processes that do one side's work: started once, measured each time. What a run costs is a process's CPU time and peak memory.

A job is a module-level function whose first argument is a `Gate`: it prepares, says `gate.ready()`, works, and returns plain values.
"""

from __future__ import annotations

import importlib
import multiprocessing
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

TIMEOUT_S = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """What came of a job: when it was let go and when it ended (on the system's monotonic clock), its cost, and what it returned."""

    began: float
    ended: float
    cpu_s: float
    peak_rss: int
    value: Any


class Gate:
    """Where a job waits until all are ready."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self.began = 0.0

    def ready(self) -> None:
        """Say so, and wait for the start; the peak of memory counts from here."""
        self._pipe.send("ready")
        self._pipe.recv()
        Path("/proc/self/clear_refs").write_text("5")
        self.cpu_s = time.process_time()
        self.began = time.monotonic()


class Actor:
    """One process. Close it."""

    def __init__(self, name: str) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_act, args=(theirs,), name=name)
        self._process.start()
        # Then it ends when this process does, whatever happens: it waits for its next job at the other end of the pipe.
        theirs.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    def prepare(self, job: Any, *arguments: Any) -> None:
        """Begin a job; returns when it is ready."""
        self._pipe.send((job.__module__, job.__name__, arguments))
        self._expect("ready")

    def go(self) -> None:
        """Let it work."""
        self._pipe.send("go")

    def done(self) -> Done:
        """Wait until it is done."""
        found = self._expect(None)
        assert isinstance(found, Done)
        return found

    def _expect(self, wanted: str | None) -> Any:
        if not self._pipe.poll(TIMEOUT_S):
            raise TimeoutError(f"the benchmark's process {self.name} said nothing for {TIMEOUT_S:.0f} s")
        found = self._pipe.recv()
        if isinstance(found, Exception) or (wanted is not None and found != wanted):
            raise RuntimeError(f"the benchmark's process {self.name} failed: {found}")
        return found

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(20)
        if self._process.is_alive():
            self._process.kill()


def together(jobs: Sequence[tuple[Actor, Any, tuple[Any, ...]]]) -> dict[str, Done]:
    """Prepare the jobs in order, let all go at once, and wait for all; by their actors' names."""
    for actor, job, arguments in jobs:
        actor.prepare(job, *arguments)
    for actor, _, _ in jobs:
        actor.go()
    return {actor.name: actor.done() for actor, _, _ in jobs}


def cpu_of(pid: int) -> float:
    """CPU seconds a process has used."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _act(pipe: Connection) -> None:
    while True:
        try:
            module, name, arguments = pipe.recv()
        except EOFError:
            return
        gate = Gate(pipe)
        try:
            value = getattr(importlib.import_module(module), name)(gate, *arguments)
            ended = time.monotonic()
            cpu_s = time.process_time() - gate.cpu_s
            pipe.send(Done(began=gate.began, ended=ended, cpu_s=cpu_s, peak_rss=_peak_rss(), value=value))
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))


def _peak_rss() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
