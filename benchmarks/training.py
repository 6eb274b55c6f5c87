"""The training benchmark: how long a student waits that trains 20 ms on each batch of 1 MB.

The rate is in bytes of steps. Its ratio to the rate of steps without data shows the waiting: 0.99
means 1 %.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import online_sides as sides
from benchmarks.actors import Gate
from benchmarks.bench import Bench
from benchmarks.knowledge import MB1
from benchmarks.measure import Comparison, Goal, Sample, Side
from benchmarks.scale import Scale

STEP_S = 0.02
_ALONE = "steps without data"


def comparisons(bench: Bench, scale: Scale) -> Iterator[Comparison]:
    """The comparison: the student itself, and a DataLoader without and with a worker."""
    topic, count = bench.topic(4), scale.training_steps
    bench.one("teacher", sides.teach, bench.kafka, topic, MB1, count)
    goals = (Goal(other=_ALONE, at_least=0.99),)
    yield Comparison(
        title="training: steps of 20 ms on batches of 1 MB from a topic",
        sides=[
            Side(name=_ALONE, run=_side(bench, topic, count, "nothing")),
            Side(
                name="student.knowledge(64)", run=_side(bench, topic, count, "student"), goals=goals
            ),
            Side(
                name="DataLoader, num_workers=0",
                run=_side(bench, topic, count, "loader 0"),
                goals=goals,
            ),
            Side(
                name="DataLoader, num_workers=1",
                run=_side(bench, topic, count, "loader 1"),
                goals=goals,
            ),
        ],
    )


def _side(bench: Bench, topic: str, count: int, way: str) -> Callable[[], Sample]:
    def one() -> Sample:
        done = bench.one("student", train, bench.kafka, topic, count, way)
        return Sample(
            seconds=done.value,
            nbytes=count * MB1.nbytes,
            units=count,
            cpu_s={"student": done.cpu_s},
            peak_rss={"student": done.peak_rss},
        )

    return one


def train(gate: Gate, kafka: dict[str, Any], topic: str, count: int, way: str) -> float:
    """Train on the batches. Returns the seconds without the first batch, which opens the stream."""
    from torch.utils.data import DataLoader

    from tutelage import KafkaSource, Student

    student = Student(timeout_s=60)
    student.register_teacher(KafkaSource(topic, **kafka))
    with student:
        gate.ready()
        batches: Iterator[Any]
        if way == "nothing":
            batches = iter([None] * count)
        elif way == "student":
            batches = student.knowledge(64)
        else:
            workers = int(way.split()[1])
            # DataLoader forks by default. In a spawned process, such as this, it would spawn.
            context = "fork" if workers else None
            batches = iter(
                DataLoader(
                    student.dataset(64),
                    batch_size=None,
                    num_workers=workers,
                    multiprocessing_context=context,
                )
            )
        steps, began = 0, time.monotonic()
        for _ in batches:
            if not steps:
                began = time.monotonic()
            time.sleep(STEP_S)
            steps += 1
        took = time.monotonic() - began
    assert steps == count
    return took
