"""The ranks benchmark: students of 1, 2, 4 and 8 ranks that share one stream, each in a process.

The rate is that of all ranks together. After each comparison it prints what a rank reads: of a
topic what the broker sent, of a file what the process read, divided by the ranks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks.actors import TIMEOUT_S, Gate, together
from benchmarks.bench import Bench
from benchmarks.knowledge import KB256, Shape
from benchmarks.measure import Comparison, Sample, Side
from benchmarks.scale import Scale

WORLDS = (1, 2, 4, 8)
_PARTITIONS = 8
# Eight ranks have one record each of a batch.
_ROWS_PER_RECORD = 256
_GLOBAL_BATCH = 8 * _ROWS_PER_RECORD


def comparisons(bench: Bench, scale: Scale) -> Iterator[Comparison]:
    """The comparisons: ranks that read a topic, and ranks that read a file."""
    (shape,) = scale.shapes([KB256])
    count = max(scale.online(shape), 4 * _GLOBAL_BATCH // shape.rows)
    topic = bench.topic(_PARTITIONS)
    bench.one("rank 0", teach, {"topic": topic, **bench.kafka}, shape, count)
    yield from _compared(
        bench, "a topic of 8 partitions", {"topic": topic, **bench.kafka}, shape, count
    )
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "knowledge.avro")
        bench.one("rank 0", teach, {"path": path}, shape, count)
        yield from _compared(bench, "a file", {"path": path}, shape, count)


def _compared(
    bench: Bench, what: str, source: dict[str, Any], shape: Shape, count: int
) -> Iterator[Comparison]:
    read: dict[int, list[float]] = {world: [] for world in WORLDS}
    yield Comparison(
        title=f"ranks: {what}, global batches of {_GLOBAL_BATCH:,} rows of 4 KB",
        sides=[
            Side(
                name="1 rank" if world == 1 else f"{world} ranks",
                run=partial(_run, bench, source, shape, count, world, read[world].append),
            )
            for world in WORLDS
        ],
    )
    if not all(read.values()):
        return
    nbytes = count * shape.nbytes
    shares = ", ".join(f"{world}: {min(read[world]) / world / nbytes:.3f}" for world in WORLDS)
    print(f"  what a rank of so many reads, as a share of the stream's tensors: {shares}")


def _run(
    bench: Bench,
    source: dict[str, Any],
    shape: Shape,
    count: int,
    world: int,
    note: Callable[[float], None],
) -> Sample:
    before = bench.sent_bytes() if "topic" in source else 0
    done = together(
        [
            (bench.actor(f"rank {rank}"), learn, (source, shape, rank, world))
            for rank in range(world)
        ]
    )
    assert sum(one.value[0] for one in done.values()) == count * shape.rows
    of_file = sum(one.value[1] for one in done.values())
    note(bench.sent_bytes() - before if "topic" in source else of_file)
    return Sample(
        seconds=max(one.ended for one in done.values()) - min(one.began for one in done.values()),
        nbytes=count * shape.nbytes,
        units=count,
        cpu_s={name: one.cpu_s for name, one in done.items()},
        peak_rss={name: one.peak_rss for name, one in done.items()},
    )


def teach(gate: Gate, target: dict[str, Any], shape: Shape, count: int) -> None:
    """Write the stream that all ranks read."""
    from tutelage import FileSink, KafkaSink, Sink, Teacher

    options = dict(target)
    sink: Sink = (
        FileSink(options["path"])
        if "path" in options
        else KafkaSink(options.pop("topic"), **options)
    )
    given = shape.batches()
    with Teacher(sink, rows_per_record=_ROWS_PER_RECORD) as teacher:
        gate.ready()
        teacher.serve(lambda index: given[index % len(given)], range(count))


def learn(
    gate: Gate, given: dict[str, Any], shape: Shape, rank: int, world: int
) -> tuple[int, int]:
    """One rank. Returns its rows, and the bytes that its process read from files."""
    from tutelage import FileSource, KafkaSource, Source, Student

    options = dict(given)
    source: Source = (
        FileSource(options["path"])
        if "path" in options
        else KafkaSource(options.pop("topic"), **options)
    )
    student = Student(timeout_s=TIMEOUT_S, shard=(rank, world))
    student.register_teacher(source)
    key = next(iter(shape.keys))
    with student:
        gate.ready()
        before = psutil.Process().io_counters().read_chars
        rows = sum(
            batch[key].shape[0] for batch in student.knowledge(global_batch_size=_GLOBAL_BATCH)
        )
        return rows, psutil.Process().io_counters().read_chars - before
