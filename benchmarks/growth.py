"""Does more of something cost more than its share: batches, teachers, partitions, keys. Time a batch and memory, drawn by the plot.

Each comparison's first side is the smallest; a ratio near 1 is time a batch that does not grow.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.actors import Actor, Gate, together
from benchmarks.knowledge import KB64, TOY, Shape
from benchmarks.measure import Comparison, Sample, Side
from benchmarks.online import Bench, bench


def run(rounds: int, *, quick: bool) -> Iterator[Comparison]:
    """Offline by batches, keys and teachers; online by partitions."""
    actor = Actor("process")
    try:
        with tempfile.TemporaryDirectory() as folder:
            counts = [10**3, 10**4, 10**5] + ([] if quick else [10**6])
            yield _offline(actor, Path(folder), "batches of 768 B", [(f"{n:,} batches", TOY, n, 1) for n in counts]).measured(
                rounds
            )
            keys = [(f"{n} keys", _keyed(n), max(1000, 20_000 // n), 1) for n in (1, 10, 100)]
            yield _offline(actor, Path(folder), "keys of 64 x int64", keys).measured(rounds)
            teachers = [(f"{n} teachers", KB64, 2000, n) for n in (1, 2, 4, 8)]
            yield _offline(actor, Path(folder), "teachers merged by mean, batches of 64 KB", teachers).measured(rounds)
    finally:
        actor.close()
    with bench() as made:
        partitions = (1, 4, 16, 64)
        yield Comparison(
            title="growth: partitions, batches of 64 KB, online",
            sides=[Side(name=f"{n} partitions", run=_online(made, n, 300 if quick else 3000)) for n in partitions],
        ).measured(rounds)


def _online(made: Bench, partitions: int, count: int) -> Callable[[], Sample]:
    return lambda: made.ours(KB64, count, partitions)


def _keyed(keys: int) -> Shape:
    return Shape(name=f"{keys} keys", rows=64, keys={f"k{index}": ((), "int64") for index in range(keys)})


def _offline(actor: Actor, folder: Path, what: str, cases: list[tuple[str, Shape, int, int]]) -> Comparison:
    """Written and read again in one process, each case as often as its batches say."""

    def side(name: str, shape: Shape, count: int, teachers: int) -> Side:
        def one() -> Sample:
            done = together([(actor, teach_and_learn, (str(folder), shape, count, teachers))])[actor.name]
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
    """Write files, and read them merged; the seconds of both."""
    import time

    from tutelage.consumers import FileSource, Student
    from tutelage.producers import FileSink, Teacher

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
