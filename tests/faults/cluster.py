"""Three brokers behind a proxy, and the commands that teach and learn over them; what a fault did is told by digests and counters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.proxies import Proxies
from tutelage.deploy.local import Stack, StackAddresses
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.topic_admin import KafkaTopic

LESSON = f"{Path(__file__).parents[1] / 'kafka' / 'slow_lesson.py'}:lesson"
ROWS = 2000
RECORDS = 100
PARTITIONS = 3


@dataclass(kw_only=True, slots=True)
class Outcome:
    """One row of the table."""

    row: int
    fault: str
    done: str = ""
    batches: int = 0
    duplicates: int = 0
    zombies: int = 0
    stall_s: float = 0.0
    verdict: str = ""
    seconds: float = 0.0


@dataclass(kw_only=True, slots=True)
class Cluster:
    """The stack, its proxies, and the digest of a run without faults."""

    stack: Stack
    addresses: StackAddresses
    proxies: Proxies
    digest: str = ""
    topics: int = 0

    def kafka(self) -> dict[str, Any]:
        """The arguments of `KafkaSink` and `KafkaSource`."""
        return {
            "bootstrap_servers": self.addresses.bootstrap_servers,
            "registry": self.addresses.registry,
        }

    def connection(self) -> KafkaConnection:
        """How tests look at the cluster themselves."""
        return KafkaConnection(self.addresses.bootstrap_servers, registry=self.addresses.registry)

    def topic(self, name: str) -> str:
        """A topic nobody used yet."""
        self.topics += 1
        return f"{name}-{os.getpid()}-{self.topics}"

    def brokers(self) -> list[str]:
        """The brokers' names."""
        return sorted(name for name in self.stack.processes() if name.startswith("kafka"))

    def begin(self, *arguments: str, cwd: Path, **environment: str) -> Process:
        """Start `tutelage` with these arguments."""
        return Process(arguments, cwd, self.environment(environment))

    def teach(self, topic: str, cwd: Path, *more: str, seconds: str = "0.02") -> Process:
        """Start the teacher that takes its time; five seconds in all, unless told otherwise."""
        return self.begin(
            "teach",
            LESSON,
            "--topic",
            topic,
            "--partitions",
            str(PARTITIONS),
            *more,
            cwd=cwd,
            LESSON_SECONDS=seconds,
        )

    def learn(self, topic: str, cwd: Path, *more: str) -> Process:
        """Start a student that prints its result as JSON."""
        return self.begin(
            "learn",
            f"topic:{topic}",
            "--json",
            "--batch-size",
            "32",
            "--timeout",
            "120",
            *more,
            cwd=cwd,
        )

    def held(self, topic: str) -> int:
        """How many records a topic holds."""
        asked = self.asked(topic)
        partitions = asked.partitions()
        return sum(asked.end_offsets(partitions)) if partitions else 0

    def asked(self, topic: str) -> KafkaTopic:
        """A topic, to be asked and made."""
        return KafkaTopic(self.connection(), topic)

    def await_records(self, topic: str, count: int, timeout_s: float = 90) -> None:
        """Wait until a topic holds so many records."""
        until(lambda: self.held(topic) >= count, f"{count} records in {topic}", timeout_s)

    def same(self, student: Process, outcome: Outcome) -> dict[str, Any]:
        """The student must end well, with the digest of a run without faults; its counters go into the table."""
        code, out, err = student.ended(180)
        assert code == 0, err
        result: dict[str, Any] = json.loads(out)
        assert (result["rows"], result["digest"]) == (ROWS, self.digest)
        outcome.batches += result["batches"]
        outcome.duplicates += result["dropped"]["duplicates"]
        outcome.zombies += result["dropped"]["zombies"]
        outcome.stall_s = max(outcome.stall_s, result["longest_wait_s"])
        outcome.verdict = "digest equal"
        return result

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        return {
            **os.environ,
            "TUTELAGE_BOOTSTRAP_SERVER": self.addresses.bootstrap_servers,
            "TUTELAGE_REGISTRY": self.addresses.registry,
            "PYTHONUNBUFFERED": "1",
            **more,
        }


class Process:
    """A command that runs; what it says goes to files, so that nobody waits for a pipe."""

    def __init__(
        self, arguments: tuple[str, ...], cwd: Path, environment: Mapping[str, str]
    ) -> None:
        number = len(list(cwd.glob("*.err")))
        self._out, self._err = cwd / f"{number}.out", cwd / f"{number}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [str(Path(sys.executable).parent / "tutelage"), *arguments],
                env=dict(environment),
                cwd=cwd,
                stdout=out,
                stderr=err,
            )
        self.pid = self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self._process.kill()
        self._process.wait(20)

    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def said(self) -> str:
        """What it wrote to stderr so far."""
        return self._err.read_text(encoding="utf-8")

    def ended(self, timeout_s: float = 120) -> tuple[int, str, str]:
        """Exit code, output and errors; it is killed if it does not end in time."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(20)
            raise AssertionError(
                f"it did not end within {timeout_s:.0f} s; it said: {self.said()[-2000:]}"
            ) from None
        return code, self._out.read_text(encoding="utf-8"), self.said()


def until(holds: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(0.05)


def one_line(err: str, *words: str) -> str:
    """The error of a command: its last line, which must begin with `error:` and hold the words; no traceback anywhere."""
    assert "Traceback" not in err, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: "), err
    for word in words:
        assert word in last, (word, last)
    return last


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster that is up, and goes down whatever happens."""
    proxies = Proxies()
    stack = Stack(folder / "stack")
    try:
        addresses = stack.up(brokers=3, proxied=proxies.before)
        yield Cluster(stack=stack, addresses=addresses, proxies=proxies)
    finally:
        stack.down()
        proxies.close()
