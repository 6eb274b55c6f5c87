"""The growth benchmark: does a batch cost more with more batches, teachers, partitions or keys?

The first side of each comparison is the smallest. A ratio near 1 means that a batch takes as long.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.actors import Gate
from benchmarks.bench import Bench
from benchmarks.knowledge import KB64, TOY, Shape
from benchmarks.measure import Comparison, Sample, Side
from benchmarks.online import ours
from benchmarks.scale import Scale

PARTITIONS = (1, 4, 16, 64)


def comparisons(bench: Bench, scale: Scale) -> Iterator[Comparison]:
    """The comparisons: offline by batches, keys and teachers; online by partitions."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counts = [(f"{n:,} batches", TOY, n, 1) for n in scale.growth_batches]
        yield _offline(bench, folder, "batches of 768 B", counts)
        # With too few batches of many keys, the start would dominate.
        keys = [
            (f"{n} keys", _keyed(n), max(scale.growth_values // 20, scale.growth_values // n), 1)
            for n in (1, 10, 100)
        ]
        yield _offline(bench, folder, "keys of 64 x int64", keys)
        teachers = [(f"{n} teachers", KB64, scale.teacher_batches, n) for n in (1, 2, 4, 8)]
        yield _offline(bench, folder, "teachers merged by mean, batches of 64 KB", teachers)
    yield Comparison(
        title="growth: partitions, batches of 64 KB, online",
        sides=[
            Side(name=f"{n} partitions", run=_online(bench, n, scale.partition_batches))
            for n in PARTITIONS
        ],
    )


def _online(bench: Bench, partitions: int, count: int) -> Callable[[], Sample]:
    return lambda: ours(bench, KB64, count, partitions)


def _keyed(keys: int) -> Shape:
    return Shape(
        name=f"{keys} keys", rows=64, keys={f"k{index}": ((), "int64") for index in range(keys)}
    )


def _offline(
    bench: Bench, folder: Path, what: str, cases: list[tuple[str, Shape, int, int]]
) -> Comparison:
    """Cases whose files are written and read in one process."""

    def side(name: str, shape: Shape, count: int, teachers: int) -> Side:
        def one() -> Sample:
            done = bench.one("files", teach_and_learn, str(folder), shape, count, teachers)
            return Sample(
                seconds=done.value,
                nbytes=teachers * count * shape.nbytes,
                units=teachers * count,
                cpu_s={"process": done.cpu_s},
                peak_rss={"process": done.peak_rss},
            )

        return Side(name=name, run=one)

    return Comparison(title=f"growth: {what}", sides=[side(*case) for case in cases])


def teach_and_learn(gate: Gate, folder: str, shape: Shape, count: int, teachers: int) -> float:
    """Write files, and read them merged. Returns the seconds that both took."""
    import time

    from tutelage import FileSink, FileSource, Student, Teacher

    given = shape.batches()
    key = next(iter(shape.keys))
    gate.ready()
    began = time.monotonic()
    student = Student(merge=dict.fromkeys(shape.keys, "mean") if teachers > 1 else None)
    for index in range(teachers):
        path = Path(folder) / f"{index}.avro"
        with Teacher(FileSink(path, overwrite=True)) as teacher:
            teacher.serve(lambda at: given[at % len(given)], range(count))
        student.register_teacher(FileSource(path))
    with student:
        rows = sum(batch[key].shape[0] for batch in student.knowledge(shape.rows))
    assert rows == count * shape.rows
    return time.monotonic() - began
