"""The toy's teachers for the command line: `tutelage teach tutelage.examples.toy.lessons:teacher1 --out teacher1.avro`."""

from __future__ import annotations

from tutelage.examples.toy.reader import inputs_of
from tutelage.examples.toy.teachers import Teacher1, Teacher2
from tutelage.producers import Lesson

MAX_N = 1000


def teacher1() -> Lesson:
    """x -> 2x-1, for 0 to 999."""
    return Lesson(
        model=Teacher1(),
        inputs=inputs_of("batch_generator", max_n=MAX_N, batch_size=32),
        name="teacher1",
        fingerprint=f"numbers to {MAX_N}",
    )


def teacher2() -> Lesson:
    """x -> 2x+1, for 0 to 999."""
    return Lesson(
        model=Teacher2(),
        inputs=inputs_of("batch_generator", max_n=MAX_N, batch_size=25),
        name="teacher2",
        fingerprint=f"numbers to {MAX_N}",
    )
