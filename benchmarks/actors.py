"""Processes that do the work of a side. A process is started once, and measured at each run.

A job is a module-level function whose first argument is a `Gate`. It prepares, calls
`gate.ready()`, works, and returns plain values. A run's cost is the process's CPU time and peak
memory.
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
    """The result of a job: its start and end on the monotonic clock, its cost, and its value."""

    began: float
    ended: float
    cpu_s: float
    peak_rss: int
    value: Any


class Gate:
    """Where a job waits until all jobs are ready."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self.began = 0.0

    def ready(self) -> None:
        """Report that the job is ready, and wait for the start. Peak memory counts from here."""
        self._pipe.send("ready")
        self._pipe.recv()
        Path("/proc/self/clear_refs").write_text("5")
        self.cpu_s = time.process_time()
        self.began = time.monotonic()


class ActorError(Exception):
    """A job failed, its process ended, or it did not answer in time."""


class Actor:
    """One process that runs jobs. It must be closed."""

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
        # Only the child has this end now, so the child ends with this process: its read fails then.
        theirs.close()

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process.pid is not None
        return self._process.pid

    def prepare(self, job: Callable[..., Any], *arguments: Any) -> None:
        """Begin a job, and wait until it is ready."""
        self._send((job.__module__, job.__name__, arguments))
        if self._receive() != "ready":
            raise ActorError(
                f"the benchmark's process {self.name} ended {job.__name__} before it was ready"
            )

    def go(self) -> None:
        """Let the job work."""
        self._send("go")

    def done(self) -> Done:
        """Wait for the job's result."""
        found = self._receive()
        assert isinstance(found, Done)
        return found

    def _send(self, what: object) -> None:
        try:
            self.pipe.send(what)
        except OSError as error:
            raise self._ended() from error

    def _receive(self) -> Any:
        try:
            if not self.pipe.poll(TIMEOUT_S):
                raise ActorError(
                    f"the benchmark's process {self.name} did not answer for {TIMEOUT_S:.0f} s"
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
        """Kill the process and start another: a failed job may have left anything behind."""
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
    """Prepare jobs in order, start all of them at once, and wait for all.

    Returns:
        Each job's result, by its actor's name.

    Raises:
        ActorError: A job failed. The others are not waited for, and all processes are restarted.
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
    """All results. The first failure ends the wait, because the other jobs may wait for it."""
    found: dict[str, Done] = {}
    deadline = time.monotonic() + TIMEOUT_S
    while waiting:
        ready = wait(list(waiting), max(0.0, deadline - time.monotonic()))
        if not ready:
            silent = " and ".join(actor.name for actor in waiting.values())
            raise ActorError(
                f"the benchmark's process {silent} did not answer for {TIMEOUT_S:.0f} s"
            )
        for pipe in ready:
            assert isinstance(pipe, Connection)
            actor = waiting.pop(pipe)
            found[actor.name] = actor.done()
    return found


def cpu_of(pid: int) -> float:
    """The CPU seconds that a process has used."""
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
