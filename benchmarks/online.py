"""Kafka: a teacher's process to a student's, against the raw client, Avro's usual ways and Pantheon's, on one broker.

Processes are up and connected before the clock starts; it runs from the teacher's first batch to the last tensor at the student, choosing
R, registering the schema and opening the stream included.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import online_sides as sides
from benchmarks.actors import Actor, cpu_of, together
from benchmarks.knowledge import DTYPES, KB256, SIZES, TOY, Shape
from benchmarks.measure import Comparison, Goal, Sample, Side
from tutelage.deploy.local import Stack
from tutelage.schemas.kafka_connection import KafkaConnection
from tutelage.schemas.kafka_topic import KafkaTopic

PARTITIONS = (1, 4, 16)
_NUMBERS = itertools.count()
RAW, OURS = "raw client", "tutelage"


class Bench:
    """A stack of its own, two teachers' processes and a student's."""

    def __init__(self, stack: Stack) -> None:
        addresses = stack.up()
        self.kafka = {"bootstrap_servers": addresses.bootstrap_servers, "registry": addresses.registry}
        self._broker = stack.processes()["kafka-1"]
        self._connection = KafkaConnection(addresses.bootstrap_servers, registry=addresses.registry)
        self.student = Actor("student")
        self.teacher = Actor("teacher")
        self.teacher2 = Actor("teacher2")

    def close(self) -> None:
        """End the processes."""
        for actor in (self.student, self.teacher, self.teacher2):
            actor.close()

    def topic(self, partitions: int) -> str:
        """A new topic."""
        name = f"bench-{next(_NUMBERS)}"
        KafkaTopic(self._connection, name).create(partitions, replication=1, settings={"max.message.bytes": str(16 << 20)})
        return name

    def timed(self, jobs: list[tuple[Actor, Any, tuple[Any, ...]]], topics: list[str], nbytes: int, units: int) -> Sample:
        """One run; the student's job comes first and returns when its last batch came."""
        before = cpu_of(self._broker)
        done = together(jobs)
        cpu_s = {name: one.cpu_s for name, one in done.items()} | {"broker": cpu_of(self._broker) - before}
        admin = self._connection.admin()
        for future in admin.delete_topics(topics).values() if topics else ():
            future.result(30)
        return Sample(
            seconds=done["student"].value - min(one.began for name, one in done.items() if name != "student"),
            nbytes=nbytes,
            units=units,
            cpu_s=cpu_s,
            peak_rss={name: one.peak_rss for name, one in done.items()},
        )

    def through_kafka(self, produce: Any, consume: Any, shape: Shape, count: int, partitions: int) -> Sample:
        """A side that uses the client as it is."""
        topic = self.topic(partitions)
        jobs = [
            (self.student, consume, (self.kafka, topic, shape, count, partitions)),
            (self.teacher, produce, (self.kafka, topic, shape, count, partitions)),
        ]
        return self.timed(jobs, [topic], count * shape.nbytes, count)

    def ours(self, shape: Shape, count: int, partitions: int, teachers: int = 1) -> Sample:
        """Our side, of one teacher or of two merged; bytes and batches of both count."""
        topics = [self.topic(partitions) for _ in range(teachers)]
        jobs: list[tuple[Actor, Any, tuple[Any, ...]]] = [(self.student, sides.learn, (self.kafka, topics, shape, count))]
        for actor, topic in zip((self.teacher, self.teacher2), topics, strict=False):
            jobs.append((actor, sides.teach, (self.kafka, topic, shape, count)))
        return self.timed(jobs, topics, teachers * count * shape.nbytes, teachers * count)

    def pantheon(self, shape: Shape, count: int) -> Sample:
        """Pantheon's way."""
        import socket

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        jobs = [
            (self.student, sides.get_pickled, (port, shape, count)),
            (self.teacher, sides.put_pickled, (port, shape, count)),
        ]
        return self.timed(jobs, [], count * shape.nbytes, count)


@contextmanager
def bench() -> Iterator[Bench]:
    """A bench, closed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "stack")
        made = Bench(stack)
        try:
            yield made
        finally:
            made.close()
            stack.down()


def run(rounds: int, *, quick: bool) -> Iterator[Comparison]:
    """All sizes and partition counts; then the dtypes, and two teachers."""
    total = (400 if quick else 800) * 1000 * 1000
    with bench() as made:
        for shape in SIZES:
            for partitions in PARTITIONS[:2] if quick else PARTITIONS:
                yield _sizes(made, shape, partitions, total).measured(rounds)
        for shape in DTYPES[:1] if quick else DTYPES:
            yield _sizes(made, shape, 4, total).measured(rounds)
        yield _two_teachers(made, total).measured(rounds)


def _sizes(made: Bench, shape: Shape, partitions: int, total: int) -> Comparison:
    count = 300_000 if shape is TOY else total // shape.nbytes
    few = max(100, count // 50)
    goals: tuple[Goal, ...] = (Goal(other=RAW, at_least=0.95), Goal(other=RAW, at_most=1.3, what="cpu"))
    if shape is TOY:
        goals = (Goal(other=RAW, at_least=1.0, what="units"),)
        if partitions == 1:
            goals += (Goal(other="a queue of pickled dicts (Pantheon's way)", at_least=50, what="units"),)
    found = [
        Side(name=RAW, run=lambda: made.through_kafka(sides.produce_raw, sides.consume_raw, shape, count, partitions)),
        Side(name=OURS, run=lambda: made.ours(shape, count, partitions), goals=goals),
    ]
    if partitions == 1 and shape in SIZES:
        found.append(
            Side(
                name="a queue of pickled dicts (Pantheon's way)",
                run=lambda: made.pantheon(shape, few if shape is TOY else count // 4),
            )
        )
    if partitions == 4 and shape is KB256:
        found += [
            Side(
                name="AvroSerializer, bytes fields",
                run=lambda: made.through_kafka(
                    sides.produce_serialized, sides.consume_serialized, shape, count // 2, partitions
                ),
            ),
            Side(
                name="a message a sample, array<float>",
                run=lambda: made.through_kafka(
                    sides.produce_samples, sides.consume_samples, shape, max(20, count // 80), partitions
                ),
            ),
        ]
    return Comparison(title=f"online: batches of {shape.name}, {partitions} partition{'s' * (partitions > 1)}", sides=found)


def _two_teachers(made: Bench, total: int) -> Comparison:
    count = total // KB256.nbytes
    return Comparison(
        title=f"online: two teachers merged by mean, batches of {KB256.name}, 4 partitions, total bytes",
        sides=[
            Side(name="one teacher", run=lambda: made.ours(KB256, count, 4)),
            Side(
                name="two teachers",
                run=lambda: made.ours(KB256, count // 2, 4, teachers=2),
                goals=(Goal(other="one teacher", at_least=0.9),),
            ),
        ],
    )
