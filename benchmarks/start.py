"""The start benchmark: a command's help, a full topic's first batch, a lone batch at a low rate.

`import torch` is a side of its own, because whatever returns torch tensors cannot be faster.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import online_sides as sides
from benchmarks.actors import Gate, together
from benchmarks.bench import Bench
from benchmarks.knowledge import KB256
from benchmarks.measure import Comparison, Goal, Sample, Side
from benchmarks.scale import Scale

_COMMAND = str(Path(sys.executable).parent / "tutelage")
_LATENCY_EVERY_S = 0.02
# The first few batches open the stream. They are not counted.
_OPENING_BATCHES = 10
QUANTILES: Mapping[str, Callable[[list[float]], float]] = {
    "p50": statistics.median,
    "p99": lambda values: sorted(values)[int(0.99 * len(values))],
    "slowest": max,
}


def comparisons(bench: Bench, scale: Scale) -> Iterator[Comparison]:
    """The comparisons: commands, then latency."""
    yield Comparison(
        title="start: `tutelage --help` (goal: 300 ms)",
        times=True,
        sides=[
            Side(name="python -c pass", run=lambda: _timed([sys.executable, "-c", "pass"])),
            Side(name="tutelage --help", run=lambda: _timed([_COMMAND, "--help"])),
        ],
    )
    topic = bench.topic(4)
    bench.one("teacher", sides.teach, bench.kafka, topic, KB256, scale.topic_batches)
    environment = {
        "TUTELAGE_BOOTSTRAP_SERVER": bench.kafka["bootstrap_servers"],
        "TUTELAGE_REGISTRY": bench.kafka["registry"],
    }
    learn = [_COMMAND, "learn", f"topic:{topic}", "--rows", "1"]
    yield Comparison(
        title="start: from `tutelage learn` typed to the first batch of a full topic (goal: 1 s)",
        times=True,
        sides=[
            Side(
                name="python -c 'import torch'",
                run=lambda: _timed([sys.executable, "-c", "import torch"]),
            ),
            Side(
                name="tutelage learn, first row",
                run=lambda: _first_line(learn, environment),
                # Only the time beyond torch's own seconds can be reduced.
                goals=(Goal(other="python -c 'import torch'", at_most=1.33, what="seconds"),),
            ),
        ],
    )
    lone = LoneBatches(bench, scale.lone_batches)
    yield Comparison(
        title="start: a lone batch, 50 a second: from written to merged (goal: p99 20 ms)",
        times=True,
        sides=[Side(name=name, run=lone.quantile(name)) for name in QUANTILES],
    )


class LoneBatches:
    """The latency of lone batches.

    Each round of a comparison sends the batches once. Each side is a quantile of the round.
    """

    def __init__(self, bench: Bench, count: int) -> None:
        self._bench = bench
        self._count = count
        self._rounds: list[list[float]] = []

    def quantile(self, name: str) -> Callable[[], Sample]:
        """The run of a side: call n returns the quantile of round n."""
        calls = iter(range(sys.maxsize))

        def one() -> Sample:
            round_ = next(calls)
            while len(self._rounds) <= round_:
                self._rounds.append(self._sent())
            return _sample(QUANTILES[name](self._rounds[round_]))

        return one

    def _sent(self) -> list[float]:
        topic = self._bench.topic(4)
        done = together(
            [
                (self._bench.actor("student"), arrive, (self._bench.kafka, topic, self._count)),
                (self._bench.actor("teacher"), depart, (self._bench.kafka, topic, self._count)),
            ]
        )
        times = [
            came - went
            for came, went in zip(done["student"].value, done["teacher"].value, strict=True)
        ]
        return times[_OPENING_BATCHES:]


def _timed(command: Sequence[str]) -> Sample:
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return _sample(time.monotonic() - began)


def _first_line(command: Sequence[str], environment: dict[str, str]) -> Sample:
    """The time until a command's first line. The command is killed then."""
    began = time.monotonic()
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    took = time.monotonic() - began
    process.kill()
    process.communicate()
    if not line:
        raise RuntimeError(f"{' '.join(command)} printed nothing")
    return _sample(took)


def _sample(seconds: float) -> Sample:
    return Sample(seconds=seconds, nbytes=1, units=1)


def depart(gate: Gate, kafka: dict[str, Any], topic: str, count: int) -> list[float]:
    """Write batches at a low rate. Returns the time of each."""
    import torch

    from tutelage import KafkaSink, Teacher

    went: list[float] = []
    with Teacher(KafkaSink(topic, **kafka), rows_per_record=32) as teacher:
        gate.ready()
        for index in range(count):
            time.sleep(_LATENCY_EVERY_S)
            went.append(time.monotonic())
            teacher.write({"x": torch.full((32,), index)})
    return went


def arrive(gate: Gate, kafka: dict[str, Any], topic: str, count: int) -> list[float]:
    """Read the batches. Returns the time of each."""
    from tutelage import KafkaSource, Student

    student = Student(timeout_s=60)
    student.register_teacher(KafkaSource(topic, **kafka))
    came: list[float] = []
    with student:
        gate.ready()
        for batch in student.knowledge(32):
            assert int(batch["x"][0]) == len(came)
            came.append(time.monotonic())
    assert len(came) == count
    return came
