"""A student with next to no budget holds partitions all the time, and still reads a whole topic to its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tutelage import KafkaSink, KafkaSource, Student, Teacher

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
Names = Callable[[str], str]

# Records of this size are taken one by one, so that every one of them finds its partition held or let go.
_LARGE = 300_000


def topic_of(
    kafka: dict[str, Any],
    topic: str,
    rows: int,
    *,
    partitions: int,
    width: int = 1,
    passes: int = 2,
) -> None:
    """A whole topic of one row a record, `width` int64 numbers each."""
    with Teacher(
        KafkaSink(topic, partitions=partitions, **kafka), passes=passes, rows_per_record=1
    ) as teacher:
        teacher.serve(
            lambda x: {"x": x[:, None].expand(-1, width)}, torch.arange(rows), batch_size=4
        )


def numbers(kafka: dict[str, Any], topic: str, *, passes: int = 2) -> list[list[int]]:
    """The first number of each row, pass by pass."""
    student = Student(timeout_s=15, budget_bytes=1)
    student.register_teacher(KafkaSource(topic, **kafka))
    with student:
        return [
            [x for batch in student.knowledge(16) for x in batch["x"][:, 0].tolist()]
            for _ in range(passes)
        ]


@pytest.mark.parametrize("partitions", [2, 3, 5])
def test_the_ends_of_all_partitions_come_with_a_budget_of_one_byte(
    kafka: dict[str, Any], topic_name: Names, partitions: int
) -> None:
    topic = topic_name("held")
    topic_of(kafka, topic, 7, partitions=partitions, width=_LARGE)
    for _ in range(2):
        assert numbers(kafka, topic) == [list(range(7))] * 2


@pytest.mark.parametrize("rows", [250, 251, 252, 255])
def test_topics_of_any_length_are_read_to_their_end_with_a_budget_of_one_byte(
    kafka: dict[str, Any], topic_name: Names, rows: int
) -> None:
    """Small records come by the dozen; where the dozens happen to stop before an end, it was never fetched."""
    topic = topic_name("lengths")
    topic_of(kafka, topic, rows, partitions=8)
    assert numbers(kafka, topic) == [list(range(rows))] * 2
