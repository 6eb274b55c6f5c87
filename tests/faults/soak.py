"""`make soak`: two teachers and a student, one of them killed every few seconds, for as long as is asked; then digests are compared.

python tests/faults/soak.py MINUTES. Each round teaches two topics and learns them merged, until all that was killed on the way has ended well.
Prints a line a round: batches, kills, what was dropped, peak RSS, file descriptors and threads of the student. Exits with 1 if a digest differs.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faults.cluster import LESSON, Cluster, Process, cluster

_EVERY_S = (1.0, 6.0)


def main() -> None:
    """Rounds until the time is up."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    seed = random.SystemRandom().randrange(10**6)
    print(f"soak for {minutes:g} minutes, seed {seed}", flush=True)
    chooser = random.Random(seed)
    deadline = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder, cluster(Path(folder)) as made:
        expected = _reference(made, Path(folder))
        number = batches = kills = wrong = 0
        while time.monotonic() < deadline:
            number += 1
            work = Path(folder) / f"round-{number}"
            work.mkdir()
            found = _round(made, work, chooser, deadline)
            batches, kills = batches + found["batches"], kills + found["kills"]
            same = found["digest"] == expected
            wrong += not same
            print(
                f"round {number}: {found['batches']} batches, {found['kills']} kills, {found['duplicates']} duplicates, {found['zombies']} zombies, "
                f"student RSS {found['rss'] / 1e6:.0f} MB, {found['fds']} descriptors, {found['threads']} threads, "
                f"digest {'equal' if same else 'DIFFERS'}",
                flush=True,
            )
    print(f"{number} rounds, {batches} batches, {kills} kills, {wrong} digests differ")
    sys.exit(1 if wrong else 0)


def _reference(made: Cluster, folder: Path) -> str:
    assert (
        made.begin("teach", LESSON, "--out", "whole.avro", cwd=folder, LESSON_SECONDS="0").ended()[
            0
        ]
        == 0
    )
    code, out, err = _learn(made, folder, "whole.avro", "whole.avro").ended()
    assert code == 0, err
    return str(json.loads(out)["digest"])


def _learn(made: Cluster, folder: Path, one: str, other: str, *more: str) -> Process:
    if one == other:
        (folder / "copy.avro").write_bytes((folder / one).read_bytes())
        other = "copy.avro"
    merge = ("--merge", "x=first", "--merge", "2x-1=mean")
    return made.begin(
        "learn",
        one,
        other,
        *merge,
        "--json",
        "--batch-size",
        "32",
        "--timeout",
        "120",
        *more,
        cwd=folder,
    )


def _round(made: Cluster, folder: Path, chooser: random.Random, deadline: float) -> dict[str, Any]:
    """One run of both topics, killed now and then; teachers are started again, and the student from its beginning."""
    topics = [made.topic("soak"), made.topic("soak")]
    sources = [f"topic:{topic}" for topic in topics]
    teachers = [made.teach(topic, folder, seconds="0.08") for topic in topics]
    student = _learn(made, folder, *sources)
    kills = rss = fds = threads = 0
    next_kill = time.monotonic() + chooser.uniform(*_EVERY_S)
    while student.running():
        time.sleep(0.2)
        try:
            seen = psutil.Process(student.pid)
            rss, fds, threads = (
                max(rss, seen.memory_info().rss),
                max(fds, seen.num_fds()),
                max(threads, seen.num_threads()),
            )
        except psutil.NoSuchProcess:
            pass
        if time.monotonic() < next_kill:
            continue
        next_kill = time.monotonic() + chooser.uniform(*_EVERY_S)
        victim = chooser.randrange(3)
        if victim < 2 and teachers[victim].running():
            teachers[victim].kill()
            kills += 1
            teachers[victim] = made.teach(topics[victim], folder, seconds="0.08")
        elif victim == 2 and chooser.random() < 0.3:
            student.kill()
            kills += 1
            student = _learn(made, folder, *sources)
        for index, teacher in enumerate(teachers):
            if not teacher.running():
                code = teacher.ended(5)[0]
                if code not in (0, 2):
                    teachers[index] = made.teach(topics[index], folder, seconds="0.08")
    code, out, err = student.ended(30)
    assert code == 0, err
    for teacher in teachers:
        teacher.ended(120)
    result = json.loads(out)
    dropped = result["dropped"]
    return {
        "batches": result["batches"],
        "kills": kills,
        "digest": result["digest"],
        "rss": rss,
        "fds": fds,
        "threads": threads,
        **dropped,
    }


if __name__ == "__main__":
    main()
