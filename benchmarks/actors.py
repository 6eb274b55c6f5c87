"""Processes that do one side's work: started once, measured each time. What a run costs is a process's CPU time and peak memory.

A job is a module-level function whose first argument is a `Gate`: it prepares, says `gate.ready()`, works, and returns plain values.
"""

from __future__ import annotations

import importlib
import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import psutil

TIMEOUT_S = 300.0
_END_TIMEOUT_S = 20.0


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


class ActorError(Exception):
    """A job failed, its process ended, or it said nothing for too long."""


class Actor:
    """One process. Close it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._start()

    def __repr__(self) -> str:
        return f"Actor({self.name!r}, process {self.pid})"

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_act, args=(theirs,), name=self.name)
        self._process.start()
        # Then it ends when this process does, whatever happens: it waits for its next job at the other end of the pipe.
        theirs.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    def prepare(self, job: Callable[..., Any], *arguments: Any) -> None:
        """Begin a job; returns when it is ready."""
        self._send((job.__module__, job.__name__, arguments))
        if self._heard() != "ready":
            raise ActorError(
                f"the benchmark's process {self.name} ended {job.__name__} before it was ready"
            )

    def go(self) -> None:
        """Let it work."""
        self._send("go")

    def done(self) -> Done:
        """Wait until it is done."""
        found = self._heard()
        assert isinstance(found, Done)
        return found

    def _send(self, what: object) -> None:
        try:
            self.pipe.send(what)
        except OSError as error:
            raise self._ended() from error

    def _heard(self) -> Any:
        try:
            if not self.pipe.poll(TIMEOUT_S):
                raise ActorError(
                    f"the benchmark's process {self.name} said nothing for {TIMEOUT_S:.0f} s"
                )
            found = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if isinstance(found, Exception):
            raise ActorError(f"the benchmark's process {self.name} failed: {found}") from found
        return found

    def _ended(self) -> ActorError:
        self._process.join(_END_TIMEOUT_S)
        return ActorError(
            f"the benchmark's process {self.name} ended with exit code {self._process.exitcode}"
        )

    def restart(self) -> None:
        """End the process, whatever it does, and start another: of a failed job it may still hold anything."""
        self._process.kill()
        self._process.join(_END_TIMEOUT_S)
        self.pipe.close()
        self._start()

    def close(self) -> None:
        """End the process."""
        self.pipe.close()
        self._process.join(_END_TIMEOUT_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(_END_TIMEOUT_S)


Job = tuple[Actor, Callable[..., Any], tuple[Any, ...]]


def together(jobs: Sequence[Job]) -> dict[str, Done]:
    """Prepare the jobs in order, let all go at once, and wait for all; by their actors' names.

    Raises:
        ActorError: One failed. The others are not waited for; all of the jobs' processes are started anew.
    """
    try:
        for actor, job, arguments in jobs:
            actor.prepare(job, *arguments)
        for actor, _, _ in jobs:
            actor.go()
        return _all_done({actor.pipe: actor for actor, _, _ in jobs})
    except BaseException:
        for actor, _, _ in jobs:
            actor.restart()
        raise


def _all_done(waiting: dict[Connection, Actor]) -> dict[str, Done]:
    """What came of all; the first that failed ends the wait, for the others may wait for it."""
    found: dict[str, Done] = {}
    deadline = time.monotonic() + TIMEOUT_S
    while waiting:
        ready = wait(list(waiting), max(0.0, deadline - time.monotonic()))
        if not ready:
            silent = " and ".join(actor.name for actor in waiting.values())
            raise ActorError(f"the benchmark's process {silent} said nothing for {TIMEOUT_S:.0f} s")
        for pipe in ready:
            assert isinstance(pipe, Connection)
            actor = waiting.pop(pipe)
            found[actor.name] = actor.done()
    return found


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
            pipe.send(
                Done(began=gate.began, ended=ended, cpu_s=cpu_s, peak_rss=_peak_rss(), value=value)
            )
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))


def _peak_rss() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
