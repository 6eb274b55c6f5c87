"""A real teacher and student, as commands, that stand still at a known place so that what they show can be compared with what is true."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tutelage.deploy.local.ports import free_ports

TUTELAGE = str(Path(sys.executable).parent / "tutelage")
ROWS, RECORD, BATCH = 400, 10, 20
#: The student stands after so many batches.
HELD_BATCHES = 15

LESSON = f"""
import time
from pathlib import Path
import torch
from tutelage import Lesson

def inputs():
    for start in range(0, {ROWS}, 8):
        yield torch.arange(start, start + 8)
    while not Path("go").exists():
        time.sleep(0.05)

lesson = Lesson(model=lambda x: {{"x": x, "noise": x.float() / 7}}, inputs=inputs, name="watched", rows_per_record={RECORD})

def train(batches):
    for index, batch in enumerate(batches, 1):
        if index == {HELD_BATCHES}:
            Path("held").touch()
            while not Path("go").exists():
                time.sleep(0.05)
"""


@dataclass(frozen=True, kw_only=True)
class Watched:
    """The two commands' ports, and the topic and group between them."""

    teacher: int
    student: int
    topic: str
    group: str

    def samples(self, port: int) -> list[Sample]:
        """What Prometheus would get from a port."""
        return [
            sample
            for family in text_string_to_metric_families(asked(port, "/metrics")[1])
            for sample in family.samples
        ]

    def value(self, port: int, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        found = [
            sample.value
            for sample in self.samples(port)
            if sample.name == name
            and all(sample.labels.get(label) == value for label, value in labels.items())
        ]
        assert found, f"no {name} with {labels}"
        return sum(found)


def asked(port: int, path: str) -> tuple[int, str]:
    """Status and body of an answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@contextlib.contextmanager
def watched_run(environment: dict[str, str], topic: str, folder: Path) -> Iterator[Watched]:
    """The teacher has written all but its end, the student has taken HELD_BATCHES; afterwards both go on and must end well."""
    (folder / "watched.py").write_text(LESSON)
    teacher, student = free_ports(2)
    run = Watched(teacher=teacher, student=student, topic=topic, group=f"group-of-{topic}")
    commands = (
        [TUTELAGE, "teach", "watched.py:lesson", "--topic", topic, "--partitions", "2", "--metrics-port", str(run.teacher)],
        [TUTELAGE, "learn", f"topic:{topic}", "--batch-size", str(BATCH), "--group", run.group, "--train", "watched.py:train",
         "--checkpoint", "state.json", "--checkpoint-every", "5", "--metrics-port", str(run.student)],
    )  # fmt: skip
    processes = [
        subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    try:
        deadline = time.monotonic() + 90
        while not (folder / "held").exists():
            for process in processes:
                assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "the student does not get to where it is to stand"
            time.sleep(0.1)
        # Ends of partitions are asked for by one look and known at the next.
        asked(run.student, "/metrics")
        time.sleep(1)
        yield run
        (folder / "go").touch()
        for process in processes:
            out, err = process.communicate(timeout=60)
            assert process.returncode == 0, (out, err)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
