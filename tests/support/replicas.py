"""Replicas of a teacher as processes, and what the topic of answers holds in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tutelage import KafkaSource
from tutelage.consumers.position import Position
from tutelage.schemas.record import Record
from tutelage.schemas.topic import BEGINNING

LESSON = Path(__file__).with_name("answering_lesson.py")


class Replicas:
    """Replicas that answer the queries of one topic. Close it.

    Args:
        topic: The topic of answers; that of queries is `topic.queries`.
        environment: The environment of a command that finds the stack.
        folder: Where their output goes.
    """

    def __init__(self, topic: str, environment: dict[str, str], folder: Path) -> None:
        self._topic = topic
        self._environment = environment
        self._folder = folder
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, *flags: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start one more."""
        command = [str(Path(sys.executable).parent / "tutelage"), "teach", f"{LESSON}:lesson"]
        command += ["--queries", f"{self._topic}.queries", "--topic", self._topic, *flags]
        with (self._folder / f"replica-{len(self.running)}.txt").open("wb") as log:
            started = subprocess.Popen(
                command, env={**self._environment, **variables}, stdout=log, stderr=log
            )
        self.running.append(started)
        return started

    def output(self) -> str:
        """What they have printed."""
        return "\n".join(
            path.read_text(encoding="utf-8", errors="replace")
            for path in sorted(self._folder.glob("replica-*.txt"))
        )

    def close(self) -> None:
        """End all of them."""
        for each in self.running:
            if each.poll() is None:
                os.kill(each.pid, signal.SIGCONT)
                each.kill()
            each.wait()


def written(topic: str, kafka: dict[str, Any]) -> tuple[dict[int, list[int]], int]:
    """Return, per partition, the sequences of the answers in the order of their offsets without those that
    readers drop, ends as -1; and how many answers readers drop."""
    source = KafkaSource(topic, **kafka)
    found: dict[int, list[int]] = {}
    dropped = ends = 0
    try:
        partitions = source.open(30.0).stream.partitions
        for consumed in source.read(Position(offsets=(BEGINNING,) * partitions)):
            if consumed is None:
                if ends == partitions:
                    return found, dropped
                continue
            record = consumed.record
            assert isinstance(record, Record)
            here = found.setdefault(consumed.partition, [])
            ended = bool(here) and here[-1] == -1
            again = record.head.end is None and record.head.sequence < len(here) * partitions
            if ended or again:
                dropped += 1
            elif record.head.end is not None:
                here.append(-1)
                ends += 1
            else:
                here.append(record.head.sequence)
    finally:
        source.close()
    raise AssertionError("reading goes on until all ends came")
