"""The harness: stop a student at every batch, resume a new one from its state, and compare with the uninterrupted run."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch

from tutelage import Student

Rows = list[dict[str, list[Any]]]


def rows_of(batches: Any) -> Rows:
    """Batches as plain values, to be compared."""
    return [{key: values.tolist() for key, values in batch.items()} for batch in batches]


def assert_resumes_anywhere(
    make: Callable[[], Student], batch_size: int, *, drop_last: bool = False, passes: int = 1
) -> Rows:
    """Compare every way of stopping and resuming with the run that was not stopped; returns that run's batches."""
    with make() as student:
        whole = [rows_of(student.knowledge(batch_size, drop_last=drop_last)) for _ in range(passes)]
    for pass_index in range(passes):
        for taken in range(len(whole[pass_index]) + 1):
            with make() as student:
                batches = student.knowledge(batch_size, drop_last=drop_last, pass_index=pass_index)
                begun = [next(batches) for _ in range(taken)]
                # A state is JSON, and must survive being written as such.
                state = json.loads(json.dumps(student.state_dict()))
                batches.close()
            assert rows_of(begun) == whole[pass_index][:taken]
            with make() as student:
                student.load_state_dict(state)
                assert student.state_dict() == state
                rest = rows_of(student.knowledge(batch_size, drop_last=drop_last))
                assert rest == whole[pass_index][taken:], (pass_index, taken)
                later = [
                    rows_of(student.knowledge(batch_size, drop_last=drop_last))
                    for _ in range(pass_index + 1, passes)
                ]
                assert later == whole[pass_index + 1 :]
    return [batch for one in whole for batch in one]


def concatenated(batches: Rows, key: str) -> list[Any]:
    """All rows of one key."""
    return [row for batch in batches for row in batch[key]]


def tensors_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two batches are the same, keys in order and tensors bit for bit."""
    return list(one) == list(other) and all(
        torch.equal(one[key], other[key]) and one[key].dtype == other[key].dtype for key in one
    )
