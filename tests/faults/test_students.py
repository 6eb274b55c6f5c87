"""Students die, are slow; registries are away or hang."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import psutil
import pytest

from faults.cluster import ROWS, Cluster, Outcome, one_line, until

pytestmark = [pytest.mark.kafka, pytest.mark.faults, pytest.mark.timeout(900)]

TRAIN = """
import time
def train(batches):
    for batch in batches:
        with open('seen.txt', 'a') as file:
            file.write(' '.join(map(str, batch['x'].tolist())) + '\\n')
        time.sleep({seconds})
"""


def test_06_kill_the_student(running: Cluster, outcome: Outcome, tmp_path: Path) -> None:
    """kill -9 of the student, also while it writes its checkpoint."""
    topic = running.topic("student")
    assert running.teach(topic, tmp_path, seconds="0").ended()[0] == 0
    (tmp_path / "student.py").write_text(TRAIN.format(seconds=0.005), encoding="utf-8")
    arguments = (
        "learn",
        f"topic:{topic}",
        "--train",
        "student.py:train",
        "--checkpoint",
        "c.json",
        "--checkpoint-every",
        "1",
    )
    seen, kills = tmp_path / "seen.txt", 0
    while kills < 6:
        student = running.begin(*arguments, "--batch-size", "16", cwd=tmp_path)
        before = len(seen.read_text().splitlines()) if seen.exists() else 0
        until(
            lambda before=before: (  # type: ignore[misc]
                seen.exists() and len(seen.read_text().splitlines()) >= before + 8
            ),
            "batches",
            60,
        )
        # Between two batches there is little but the checkpoint being written: wherever this falls, it is old or new, never torn.
        time.sleep(0.0013 * kills)
        student.kill()
        kills += 1
        assert json.loads((tmp_path / "c.json").read_text())["version"]
    code, _, err = running.begin(*arguments, "--batch-size", "16", cwd=tmp_path).ended()
    assert code == 0, err
    batches = [tuple(map(int, line.split())) for line in seen.read_text().splitlines()]
    # A batch that was under way when the student died comes again, whole; no other does, and none is missing.
    unique = list(dict.fromkeys(batches))
    assert [x for batch in unique for x in batch] == list(range(ROWS))
    assert len(batches) - len(unique) <= kills
    assert (
        not list(tmp_path.glob("c.json.*.tmp")) or len(list(tmp_path.glob("c.json.*.tmp"))) <= kills
    )
    outcome.batches = len(unique)
    outcome.done, outcome.verdict = (
        f"{kills} kills, a checkpoint a batch",
        "every batch once, the one under way again",
    )


def test_09_the_registry_is_away(running: Cluster, outcome: Outcome, tmp_path: Path) -> None:
    """the registry refuses, hangs, dies in the middle."""
    topic = running.topic("registry")
    student = running.learn(topic, tmp_path)
    teacher = running.teach(topic, tmp_path, seconds="0.05")
    running.await_records(topic, 15)
    running.stack.kill("registry")
    assert teacher.ended()[0] == 0
    running.same(student, outcome)
    took = []
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for url in ("http://127.0.0.1:1", f"http://127.0.0.1:{silent.getsockname()[1]}"):
            for command in (
                ("learn", f"topic:{topic}"),
                (
                    "teach",
                    "tutelage.examples.toy.lessons:teacher1",
                    "--topic",
                    running.topic("none"),
                ),
            ):
                process = running.begin(*command, "--registry", url, cwd=tmp_path)
                until(
                    lambda process=process: (  # type: ignore[misc]
                        process.said() != "" or not process.running()
                    ),
                    "an answer",
                    60,
                )
                code, _, err = process.ended(60)
                assert code == 4, (code, err)
                one_line(err, "HttpRegistry")
                took.append(url)
    outcome.done = (
        "killed in the middle: nobody notices; away or silent at the start: one line, exit 4"
    )


def test_18_a_slow_student(running: Cluster, outcome: Outcome, tmp_path: Path) -> None:
    """a student 50 times slower than its teacher."""
    topic = running.topic("slow")
    lesson = tmp_path / "wide.py"
    lesson.write_text(
        "import torch\nfrom tutelage import Lesson\n"
        "lesson = Lesson(model=lambda i: {'x': torch.full((64, 4096), float(i))}, inputs=range(600), name='wide')\n"
    )
    (tmp_path / "slow.py").write_text(
        "import time\ndef train(batches):\n    for _ in batches:\n        time.sleep(0.05)\n"
    )
    student = running.begin(
        "learn", f"topic:{topic}", "--batch-size", "64", "--train", "slow.py:train", cwd=tmp_path
    )
    began = time.monotonic()
    teacher = running.begin(
        "teach", f"{lesson}:lesson", "--topic", topic, "--partitions", "3", cwd=tmp_path
    )
    assert teacher.ended()[0] == 0
    taught_s = time.monotonic() - began
    process, peak = psutil.Process(student.pid), 0
    base = 0
    while student.running():
        try:
            peak = max(peak, process.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        base = base or peak
        time.sleep(0.1)
    code, _, err = student.ended(120)
    assert code == 0, err
    # Torch itself is some 500 MB; the budgets are 64 MB in the client and 32 MB behind it.
    assert peak < 1200e6
    outcome.batches = 600
    outcome.done = (
        f"600 MB; the teacher is done after {taught_s:.0f} s, the student at its own pace"
    )
    outcome.verdict = f"RSS at most {peak / 1e6:.0f} MB"
