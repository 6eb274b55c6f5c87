"""The online benchmark: from a teacher's process to a student's through one broker.

The peers are the raw client, Avro serializers and Pantheon's queue. All processes run and are
connected before the clock starts. It runs from the teacher's first batch to the last tensor at the
student, and includes choosing R, registering the schema and opening the stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks import online_sides as sides
from benchmarks.actors import Job
from benchmarks.bench import Bench
from benchmarks.knowledge import DTYPES, KB256, SIZES, TOY, Shape
from benchmarks.measure import Comparison, Goal, Sample, Side
from benchmarks.scale import Scale
from tutelage.deploy.local.ports import free_ports

PARTITIONS = (1, 4, 16)
RAW, OURS, PANTHEON = "raw client", "tutelage", "a queue of pickled dicts (Pantheon's way)"


def through_kafka(
    bench: Bench, produce: Any, consume: Any, shape: Shape, count: int, partitions: int
) -> Sample:
    """Run a side that uses the Kafka client directly."""
    topic = bench.topic(partitions)
    jobs: list[Job] = [
        (bench.actor("student"), consume, (bench.kafka, topic, shape, count, partitions)),
        (bench.actor("teacher"), produce, (bench.kafka, topic, shape, count, partitions)),
    ]
    return bench.timed(jobs, [topic], count * shape.nbytes, count)


def ours(bench: Bench, shape: Shape, count: int, partitions: int, teachers: int = 1) -> Sample:
    """Run Tutelage, with one teacher or with two merged. Bytes and batches of both count."""
    topics = [bench.topic(partitions) for _ in range(teachers)]
    jobs: list[Job] = [(bench.actor("student"), sides.learn, (bench.kafka, topics, shape, count))]
    for name, topic in zip(("teacher", "teacher2"), topics, strict=False):
        jobs.append((bench.actor(name), sides.teach, (bench.kafka, topic, shape, count)))
    return bench.timed(jobs, topics, teachers * count * shape.nbytes, teachers * count)


def pantheon(bench: Bench, shape: Shape, count: int) -> Sample:
    """Run Pantheon's queue."""
    (port,) = free_ports(1)
    jobs: list[Job] = [
        (bench.actor("student"), sides.get_pickled, (port, shape, count)),
        (bench.actor("teacher"), sides.put_pickled, (port, shape, count)),
    ]
    return bench.timed(jobs, [], count * shape.nbytes, count)


def comparisons(bench: Bench, scale: Scale) -> Iterator[Comparison]:
    """The comparisons: all sizes and partition counts, then the dtypes, then two teachers."""
    for shape in scale.shapes(SIZES):
        for partitions in PARTITIONS if scale.all_cases else PARTITIONS[:2]:
            yield _sizes(bench, shape, partitions, scale.online(shape))
    for shape in scale.shapes(DTYPES if scale.all_cases else DTYPES[:1]):
        yield _sizes(bench, shape, 4, scale.online(shape))
    (shape,) = scale.shapes([KB256])
    yield _two_teachers(bench, shape, scale.online(shape))


def _sizes(bench: Bench, shape: Shape, partitions: int, count: int) -> Comparison:
    goals: tuple[Goal, ...] = (
        Goal(other=RAW, at_least=0.95),
        Goal(other=RAW, at_most=1.3, what="cpu"),
    )
    if shape.name == TOY.name:
        goals = (Goal(other=RAW, at_least=1.0, what="units"),)
        if partitions == 1:
            goals += (Goal(other=PANTHEON, at_least=50, what="units"),)
    found = [
        Side(
            name=RAW,
            run=lambda: through_kafka(
                bench, sides.produce_raw, sides.consume_raw, shape, count, partitions
            ),
        ),
        Side(name=OURS, run=lambda: ours(bench, shape, count, partitions), goals=goals),
    ]
    if partitions == 1 and shape.name in {each.name for each in SIZES}:
        # The queue is slow: with as many batches it would take too long.
        fewer = max(1, count // 50 if shape.name == TOY.name else count // 4)
        found.append(Side(name=PANTHEON, run=lambda: pantheon(bench, shape, fewer)))
    if partitions == 4 and shape.name == KB256.name:
        found += [
            Side(
                name="AvroSerializer, bytes fields",
                run=lambda: through_kafka(
                    bench,
                    sides.produce_serialized,
                    sides.consume_serialized,
                    shape,
                    count // 2,
                    partitions,
                ),
            ),
            Side(
                name="a message a sample, array<float>",
                run=lambda: through_kafka(
                    bench,
                    sides.produce_samples,
                    sides.consume_samples,
                    shape,
                    max(1, count // 80),
                    partitions,
                ),
            ),
        ]
    return Comparison(
        title=f"online: batches of {shape.name}, {partitions} partition{'s' * (partitions > 1)}",
        sides=found,
    )


def _two_teachers(bench: Bench, shape: Shape, count: int) -> Comparison:
    return Comparison(
        title=f"online: two teachers merged by mean, batches of {shape.name}, "
        "4 partitions, total bytes",
        sides=[
            Side(name="one teacher", run=lambda: ours(bench, shape, count, 4)),
            Side(
                name="two teachers",
                run=lambda: ours(bench, shape, count // 2, 4, teachers=2),
                goals=(Goal(other="one teacher", at_least=0.9),),
            ),
        ],
    )
