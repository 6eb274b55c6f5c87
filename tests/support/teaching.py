"""Small teachers and students over memory topics, for tests of either."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from tutelage import MemorySource, MemoryTopic, Sink, Student, Teacher


class Stopped(Exception):
    """Ends a teacher somewhere."""


def stopping(batches: list[torch.Tensor], after: int) -> Iterator[torch.Tensor]:
    """The batches, until Stopped is raised in place of batch `after`."""
    for index, batch in enumerate(batches):
        if index == after:
            raise Stopped
        yield batch


def teach(sink: Sink, rows: int = 20, *, passes: int = 1, **options: Any) -> None:
    """Write the numbers 0 to rows - 1 as x, and twice that as y, in records of three."""
    with Teacher(sink, passes=passes, rows_per_record=3, **options) as teacher:
        teacher.serve(lambda x: {"x": x, "y": 2.0 * x}, torch.arange(rows), batch_size=4)


def read(topic: MemoryTopic, passes: int = 1) -> list[int]:
    """All x of a topic."""
    with student_of(topic) as student:
        return [
            int(x) for _ in range(passes) for batch in student.knowledge(64) for x in batch["x"]
        ]


def student_of(*topics: MemoryTopic, **options: Any) -> Student:
    """A student of these topics that does not wait long."""
    student = Student(**{"timeout_s": 5, **options})
    for topic in topics:
        student.register_teacher(MemorySource(topic))
    return student


def xs(batches: Any) -> list[list[int]]:
    """The x of each batch."""
    return [batch["x"].tolist() for batch in batches]
