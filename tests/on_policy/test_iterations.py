"""A loop over `OnPolicy` that is left, and iterated over again."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support import asking
from support.answering_lesson import model
from support.replicas import written

from tutelage import (
    MemorySink,
    MemorySource,
    MemoryTopic,
    OnPolicy,
    QueryWriter,
    Student,
    WaitTimeout,
)

BATCH, STEPS = 4, 8


def rows_of(step: int) -> dict[str, Any]:
    return {"x": torch.arange(step * BATCH, (step + 1) * BATCH)}


@pytest.fixture
def topic() -> MemoryTopic:
    return MemoryTopic(partitions=4)


@pytest.fixture
def parts(topic: MemoryTopic) -> Iterator[tuple[Student, QueryWriter]]:
    """A started student that reads the queries, and their writer."""
    queries = QueryWriter(MemorySink(topic), rows_per_record=2)
    student = Student(sample_id="query_id", timeout_s=0.5)
    student.register_teacher(MemorySource(topic))
    with queries, student:
        yield student, queries


def made_of(student: Student, queries: QueryWriter, lag: int = 1) -> OnPolicy:
    return OnPolicy(student, queries, rows_of, batch_size=BATCH, steps=STEPS, max_policy_lag=lag)


@pytest.mark.parametrize("new_loop", [False, True])
@pytest.mark.parametrize("lag", [0, 1])
def test_the_next_iteration_goes_on_behind_the_last_batch(
    parts: tuple[Student, QueryWriter], new_loop: bool, lag: int
) -> None:
    loop = made_of(*parts, lag=lag)
    steps = []
    for taken in (3, 1, STEPS):
        for batch in itertools.islice(loop, taken):
            assert torch.equal(batch["x"], rows_of(loop.step)["x"])
            assert loop.policy_lag <= lag
            steps.append(loop.step)
        if new_loop:
            loop = made_of(*parts, lag=lag)
    assert steps == list(range(STEPS))
    assert list(loop) == []
    assert loop.step == STEPS


@pytest.mark.kafka
def test_a_loop_that_waited_in_vain_goes_on_when_a_replica_comes(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    def ill(batch: dict[str, Any]) -> dict[str, Any]:
        if int(batch["x"].max()) >= 3 * asking.BATCH:
            raise RuntimeError("out of memory")
        return model(batch)

    seen: list[torch.Tensor] = []

    def train() -> None:
        seen.extend(batch["x"] for batch in loop)

    topic = topic_name("waiting")
    with (
        asking.queries_to(topic, kafka) as queries,
        asking.student_of(topic, kafka, timeout_s=5) as student,
    ):
        loop = OnPolicy(student, queries, asking.rows_of, batch_size=asking.BATCH, steps=5)
        with pytest.raises(WaitTimeout, match=f"group tutelage-{topic} has no replica"):
            train()
        assert queries.rows == 2 * asking.BATCH
        first = asking.Answering(topic, kafka, ill)
        with pytest.raises(WaitTimeout, match=f"group tutelage-{topic} has no replica"):
            train()
        with pytest.raises(RuntimeError, match="out of memory"):
            first.done()
        second = asking.Answering(topic, kafka)
        while loop.step < 5:
            with contextlib.suppress(WaitTimeout):
                train()
    assert torch.equal(torch.cat(seen), torch.arange(5 * asking.BATCH))
    # A call that failed may have held queries of the step before, too. None was answered twice.
    assert second.done().rows >= 2 * asking.BATCH
    sequences, dropped = written(topic, kafka)
    assert dropped == 0
    assert sum(len(each) - 1 for each in sequences.values()) == 5 * asking.BATCH // asking.ROWS
