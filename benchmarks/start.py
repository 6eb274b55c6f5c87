"""How long until something comes: a command's help, a full topic's first batch, a lone batch at a low rate.

What `import torch` takes is a side of its own, because nobody who gets torch tensors can be faster.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks import online_sides as sides
from benchmarks.actors import Gate, together
from benchmarks.bench import Bench
from benchmarks.knowledge import KB256
from benchmarks.measure import Comparison, Goal, Sample, Side
from benchmarks.scale import Scale

_COMMAND = str(Path(sys.executable).parent / "tutelage")
_LATENCY_EVERY_S = 0.02
# The first few open the stream.
_OPENING_BATCHES = 10
QUANTILES: Mapping[str, Callable[[list[float]], float]] = {
    "p50": statistics.median,
    "p99": lambda values: sorted(values)[int(0.99 * len(values))],
    "slowest": max,
}


def comparisons(bench: Bench, scale: Scale) -> Iterator[Comparison]:
    """Commands, then latency."""
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
                # Torch's own second (or three) cannot be had back; what is ours to keep small is the rest.
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
    """How long lone batches took; each round of a comparison sends them once, and each of its sides is a quantile of that round."""

    def __init__(self, bench: Bench, count: int) -> None:
        self._bench = bench
        self._count = count
        self._rounds: list[list[float]] = []

    def quantile(self, name: str) -> Callable[[], Sample]:
        """A side: its nth call is about the nth round."""
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
    """Until a command's first line; then it is ended."""
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


def depart(gate: Gate, kafka: dict[str, str], topic: str, count: int) -> list[float]:
    """Write a batch every so often; when each was written."""
    import torch

    from tutelage import KafkaSink, Teacher

    went: list[float] = []
    with Teacher(KafkaSink(topic, **kafka), rows_per_record=32) as teacher:  # type: ignore[arg-type]  # plain strings
        gate.ready()
        for index in range(count):
            time.sleep(_LATENCY_EVERY_S)
            went.append(time.monotonic())
            teacher.write({"x": torch.full((32,), index)})
    return went


def arrive(gate: Gate, kafka: dict[str, str], topic: str, count: int) -> list[float]:
    """When each batch came."""
    from tutelage import KafkaSource, Student

    student = Student(timeout_s=60)
    student.register_teacher(KafkaSource(topic, **kafka))  # type: ignore[arg-type]
    came: list[float] = []
    with student:
        gate.ready()
        for batch in student.knowledge(32):
            assert int(batch["x"][0]) == len(came)
            came.append(time.monotonic())
    assert len(came) == count
    return came
