"""Profiles a teacher and a student by function: `make profile`.

    python -m benchmarks.profile [SECONDS]

py-spy samples every thread of both processes while they work, and the samples are added up by
function. Only threads that use a processor count; those that wait do not.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks import online_sides as sides
from benchmarks.actors import Job
from benchmarks.bench import opened
from benchmarks.knowledge import KB256, TOY, Shape

_TOP = 12


def main() -> None:
    """Profile batches of 768 B and of 256 KB."""
    # py-spy accepts whole seconds only.
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with opened() as bench:
        for shape, per_second in ((TOY, 120_000), (KB256, 900)):
            topic = bench.topic(4)
            count = int(per_second * (seconds + 3))
            jobs: list[Job] = [
                (bench.actor("student"), sides.learn, (bench.kafka, [topic], shape, count)),
                (bench.actor("teacher"), sides.teach, (bench.kafka, topic, shape, count)),
            ]
            for actor, job, arguments in jobs:
                actor.prepare(job, *arguments)
            for actor, _, _ in jobs:
                actor.go()
            with tempfile.TemporaryDirectory() as folder:
                watched = [
                    (actor.name, actor.pid, Path(folder) / actor.name) for actor, _, _ in jobs
                ]
                spies = [
                    subprocess.Popen(
                        [
                            str(Path(sys.executable).parent / "py-spy"),
                            *("record", "-r", "200", "-d", str(seconds), "-f", "raw"),
                            *("-p", str(pid), "-o", str(out)),
                        ],
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.PIPE,
                        text=True,
                    )
                    for _, pid, out in watched
                ]
                for spy in spies:
                    _, errors = spy.communicate(timeout=seconds + 60)
                    if spy.returncode:
                        raise RuntimeError(
                            f"py-spy ended with code {spy.returncode}: {errors.strip()[-500:]}"
                        )
                for actor, _, _ in jobs:
                    actor.done()
                for name, _, out in watched:
                    _show(name, shape, out)


def _show(name: str, shape: Shape, raw: Path) -> None:
    """Print the functions with the most samples of their own."""
    found: Counter[str] = Counter()
    for line in raw.read_text(encoding="utf-8").splitlines():
        stack, _, samples = line.rpartition(" ")
        found[stack.split(";")[-1]] += int(samples)
    total = sum(found.values())
    print(f"\n{name}, batches of {shape.name}: {total} samples of working threads")
    for function, seen in found.most_common(_TOP):
        print(f"  {100 * seen / total:5.1f} %  {function}")


if __name__ == "__main__":
    main()
