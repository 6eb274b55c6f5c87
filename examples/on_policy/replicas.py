"""Replicas of the teacher as processes: `tutelage teach --queries`, started and killed by a plan."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tutelage import ConfigurationError, WaitTimeout

Say = Callable[[str], None]
# How long a replica may take to end once it was asked to.
_END_S = 20.0
_LAST_LINES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """When replicas start and die, as shares of a run's steps.

    Args:
        starts: At each of these a replica starts.
        kills: At each of these the oldest one that runs is killed with SIGKILL.
    """

    starts: tuple[float, ...]
    kills: tuple[float, ...] = ()

    def at(self, step: int, steps: int) -> tuple[int, int]:
        """How many replicas start before a step, and how many are killed."""
        begun, killed = (
            sum(int(share * steps) == step for share in shares)
            for shares in (self.starts, self.kills)
        )
        return begun, killed


#: One replica throughout.
STEADY = Plan(starts=(0.0,))
#: A second one comes, the first one dies, a third one comes.
ELASTIC = Plan(starts=(0.0, 0.25, 0.75), kills=(0.5,))


@dataclass(kw_only=True, slots=True)
class Replicas:
    """The replicas that answer one topic of queries. Use it in a `with` block, which ends them.

    Args:
        topic: The topic of answers; that of queries is `TOPIC.queries`.
        lesson: What they teach: a name in `lesson.py`.
        flags: Further flags of `tutelage teach`.
        kafka: `bootstrap_servers` and `registry`.
        folder: Their working directory, in which the teacher is. Their output goes there.
        plan: When they start and die.
        say: Called with a line for each start and death.
    """

    topic: str
    lesson: str
    flags: tuple[str, ...]
    kafka: dict[str, Any]
    folder: Path
    plan: Plan
    say: Say
    #: Each replica that was started.
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    #: The numbers of those that were killed.
    killed: list[int] = field(default_factory=list)

    def __enter__(self) -> Replicas:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def follow(self, batches: Iterable[dict[str, Any]], steps: int) -> Iterator[dict[str, Any]]:
        """Give the batches of a run, and carry out the plan between them.

        Args:
            batches: The batches.
            steps: How many there are.

        Raises:
            ConfigurationError: A replica ended with an error.
            WaitTimeout: No answer came in time. The message has the replicas' last words.
        """
        self._turn(0, steps)
        try:
            for step, batch in enumerate(batches, 1):
                yield batch
                self._turn(step, steps)
        except WaitTimeout as error:
            raise WaitTimeout(f"{error}. The replicas say: {self._said()}") from error

    def close(self) -> None:
        """End all of them. May be called twice."""
        for process in self.started:
            if process.poll() is None:
                process.terminate()
        for process in self.started:
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _turn(self, step: int, steps: int) -> None:
        """Do what the plan has before a step."""
        for number, process in enumerate(self.started):
            if number not in self.killed and process.poll():
                raise ConfigurationError(
                    f"replica {number + 1} of {self.topic} ended with code {process.returncode}: "
                    f"{self._last_words(number)}"
                )
        begun, killed = self.plan.at(step, steps)
        for _ in range(killed):
            self._kill_oldest(step, steps)
        for _ in range(begun):
            self._start()
            self.say(f"step {step} of {steps}: replica {len(self.started)} starts")

    def _kill_oldest(self, step: int, steps: int) -> None:
        for number, process in enumerate(self.started):
            if process.poll() is None:
                process.kill()
                process.wait()
                self.killed.append(number)
                self.say(f"step {step} of {steps}: replica {number + 1} is killed")
                return

    def _start(self) -> None:
        command = [str(Path(sys.executable).parent / "tutelage"), "teach"]
        command += [f"tutelage.examples.on_policy.lesson:{self.lesson}", "--topic", self.topic]
        command += ["--queries", f"{self.topic}.queries", *self.flags]
        command += ["--bootstrap-server", self.kafka["bootstrap_servers"]]
        command += ["--registry", self.kafka["registry"]]
        # The student and each replica have a core, unless the user says otherwise.
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        with self._log(len(self.started)).open("wb") as log:
            self.started.append(
                subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)
            )

    def _said(self) -> str:
        return "; ".join(
            f"replica {number + 1}: {self._last_words(number)}"
            for number in range(len(self.started))
        )

    def _last_words(self, number: int) -> str:
        text = self._log(number).read_text(encoding="utf-8", errors="replace")
        return " ".join(text.split("\n")[-_LAST_LINES - 1 :]).strip() or "nothing"

    def _log(self, number: int) -> Path:
        return self.folder / f"{self.topic}.replica-{number + 1}.txt"
