"""What teachers must have in common: equal values of a key, bit for bit, however they are cut into records."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tutelage import (
    MemorySink,
    MemorySource,
    MemoryTopic,
    MergeError,
    SampleMismatch,
    Student,
    Teacher,
)
from tutelage.consumers.stages.compare import check_same
from tutelage.schemas.record import Ragged

LENGTHS = st.lists(st.integers(0, 4), min_size=1, max_size=6)


def cut(column: Ragged, places: list[int]) -> list[Ragged]:
    """The same rows in pieces."""
    rows = len(column.lengths)
    bounds = [0, *sorted({place % (rows + 1) for place in places}), rows]
    return [column.rows(first, last) for first, last in itertools.pairwise(bounds)]


@given(LENGTHS, st.lists(st.integers(0, 9), max_size=2), st.data())
def test_the_first_row_that_differs_is_named(
    lengths: list[int], places: list[int], data: st.DataObject
) -> None:
    values = np.arange(sum(lengths), dtype=np.float32)
    ours = Ragged(values, np.array(lengths))
    check_same("m", ["a", "b"], [[ours], cut(Ragged(values.copy(), ours.lengths), places)], 0)
    row = data.draw(st.integers(0, len(lengths) - 1))
    other, others = values.copy(), list(lengths)
    if lengths[row]:
        other[sum(lengths[: row + 1]) - 1] = np.nan
    else:
        others[row] += 1
        other = np.insert(other, sum(lengths[:row]), 7.0)
    theirs = Ragged(other, np.array(others))
    with pytest.raises(SampleMismatch, match=rf"row {10 + row}: 'm' of a and of c differ"):
        check_same("m", ["a", "b", "c"], [[ours], [ours], cut(theirs, places)], 10)


def topic_of(**keys: torch.Tensor | list[torch.Tensor]) -> MemoryTopic:
    topic = MemoryTopic()
    ragged = [key for key, value in keys.items() if isinstance(value, list)]
    with Teacher(MemorySink(topic), rows_per_record=2, ragged_keys=ragged) as teacher:
        teacher.write(keys)
    return topic


def learned(first: MemoryTopic, second: MemoryTopic, key: str) -> list[torch.Tensor]:
    student = Student({key: "same"})
    for topic in (first, second):
        student.register_teacher(MemorySource(topic))
    with student:
        return [batch[key] for batch in student.knowledge(2)]


def test_a_student_gets_the_values_that_all_teachers_have() -> None:
    # Not a number equals itself here, and zeros of both signs differ.
    x = torch.tensor([[1.0, float("nan")], [0.0, 2.0], [3.0, 4.0]])
    same = learned(topic_of(x=x), topic_of(x=x), "x")
    torch.testing.assert_close(torch.cat(same), x, equal_nan=True)
    for row, value in ((1, -0.0), (2, 5.0)):
        other = x.clone()
        other[row, 0] = value
        with pytest.raises(SampleMismatch, match=rf"row {row}: 'x' of .* differ"):
            learned(topic_of(x=x), topic_of(x=other), "x")


def test_rows_of_different_length_are_compared_too() -> None:
    masks = [torch.tensor(each) for each in ([False, True], [True], [])]
    masks[2] = masks[2].bool()
    found = learned(topic_of(kept=masks), topic_of(kept=masks), "kept")
    assert [each.tolist() for each in found] == [[[False, True], [True, False]], [[]]]
    # As many positions are kept, but others.
    other = [torch.tensor([True, False]), *masks[1:]]
    with pytest.raises(SampleMismatch, match="row 0: 'kept' of .* differ"):
        learned(topic_of(kept=masks), topic_of(kept=other), "kept")


def test_what_has_another_dtype_cannot_be_the_same() -> None:
    x = torch.ones(2, 2)
    with pytest.raises(MergeError, match="same compares bits, so they must have one dtype"):
        learned(topic_of(x=x), topic_of(x=x.half()), "x")
