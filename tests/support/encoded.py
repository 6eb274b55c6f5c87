"""Encoded knowledge for tests: teachers of a small vocabulary, and what a student gets of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from tutelage import (
    MemorySink,
    MemorySource,
    MemoryTopic,
    Source,
    SparseTarget,
    Student,
    Teacher,
)

VOCABULARY = 300
POSITIONS = 5


def logits_of(rows: int, seed: int = 0, vocabulary: int = VOCABULARY) -> torch.Tensor:
    """Logits `[rows, POSITIONS, vocabulary]` of a teacher."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, POSITIONS, vocabulary, generator=generator) * 3


def topic_of(
    logits: torch.Tensor, wire: Any, *, run_id: str = "run", **options: Any
) -> MemoryTopic:
    """A memory topic that holds a teacher's encoded logits, and the rows' numbers."""
    topic = MemoryTopic(partitions=3)
    rows = torch.arange(len(logits))
    with Teacher(
        MemorySink(topic), run_id=run_id, wire={"logits": wire}, rows_per_record=4, **options
    ) as teacher:
        teacher.serve(lambda batch: {"logits": logits[batch], "row": batch}, rows.split(6))
    return topic


def learn(
    topics: Sequence[MemoryTopic], batch_size: int = 64, **options: Any
) -> Iterator[dict[str, Any]]:
    """The batches of a student of these topics."""
    student = Student(sample_id="row", timeout_s=30, **options)
    for topic in topics:
        student.register_teacher(MemorySource(topic))
    with student:
        yield from student.knowledge(batch_size)


def target_of(topics: Sequence[MemoryTopic], merge: str | None = None) -> SparseTarget:
    """All rows of the logits as one target."""
    (batch,) = learn(topics, 1000, merge={"logits": merge} if merge else None)
    target = batch["logits"]
    assert isinstance(target, SparseTarget)
    return target


def same(one: SparseTarget, other: SparseTarget) -> bool:
    """Whether two targets hold the same, bit for bit."""
    mine, theirs = one.tensors(), other.tensors()
    return mine.keys() == theirs.keys() and all(
        mine[name].dtype == theirs[name].dtype and torch.equal(mine[name], theirs[name])
        for name in mine
    )


def learned(source: Source, batch_size: int = 100) -> dict[str, Any]:
    """All rows that a student gets of a source: key -> tensor or SparseTarget."""
    student = Student(timeout_s=30)
    student.register_teacher(source)
    with student:
        batches = list(student.knowledge(batch_size))
    found: dict[str, Any] = {}
    for key in batches[0]:
        values = [batch[key] for batch in batches]
        cat: Callable[[Any], Any] = torch.cat
        found[key] = (SparseTarget.cat if isinstance(values[0], SparseTarget) else cat)(values)
    return found


def uniform_of(count: int, seed: int = 0) -> torch.Tensor:
    """Uniform numbers, float64 `[count]`, that depend on the seed alone."""
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
