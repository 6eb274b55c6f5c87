"""How much data the benchmarks move: to measure, to estimate, or only to test that they run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.knowledge import TOY, Shape


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """Amounts of data. With `all_cases`, every size, partition count and dtype is compared."""

    all_cases: bool
    different_batches: int = 64
    offline_bytes: int
    online_bytes: int
    toy_batches: int
    # The growth benchmark: batches of 768 B, values of all keys together, batches of each teacher,
    # batches for each partition count.
    growth_batches: tuple[int, ...]
    growth_values: int
    teacher_batches: int
    partition_batches: int
    # The start benchmark: batches in the full topic, and lone batches. The first few of the lone
    # batches open the stream.
    topic_batches: int
    lone_batches: int
    training_steps: int

    def shapes(self, shapes: Sequence[Shape]) -> Iterator[Shape]:
        """The shapes, with as many different batches as this scale has."""
        return (replace(shape, at_most=self.different_batches) for shape in shapes)

    def offline(self, shape: Shape) -> int:
        """How many batches of a shape are written to a file or read from it."""
        return _count(shape, self.offline_bytes)

    def online(self, shape: Shape) -> int:
        """How many batches of a shape are sent."""
        return (
            max(shape.distinct + 1, self.toy_batches)
            if shape.name == TOY.name
            else _count(shape, self.online_bytes)
        )


def _count(shape: Shape, nbytes: int) -> int:
    # More than there are different ones: a side that cannot write a batch twice must fail at any
    # scale.
    return max(shape.distinct + 1, nbytes // shape.nbytes)


FULL = Scale(
    all_cases=True,
    offline_bytes=1_500_000_000,
    online_bytes=800_000_000,
    toy_batches=300_000,
    growth_batches=(10**3, 10**4, 10**5, 10**6),
    growth_values=20_000,
    teacher_batches=2000,
    partition_batches=3000,
    topic_batches=500,
    lone_batches=200,
    training_steps=300,
)
QUICK = Scale(
    all_cases=False,
    offline_bytes=600_000_000,
    online_bytes=400_000_000,
    toy_batches=300_000,
    growth_batches=(10**3, 10**4, 10**5),
    growth_values=20_000,
    teacher_batches=2000,
    partition_batches=300,
    topic_batches=500,
    lone_batches=200,
    training_steps=100,
)
#: For tests: all comparisons of FULL, with very little data. The figures mean nothing.
TINY = Scale(
    all_cases=True,
    different_batches=3,
    offline_bytes=1_000_000,
    online_bytes=1_000_000,
    toy_batches=1000,
    growth_batches=(10, 20, 30, 40),
    growth_values=200,
    teacher_batches=20,
    partition_batches=20,
    topic_batches=5,
    lone_batches=20,
    training_steps=5,
)
