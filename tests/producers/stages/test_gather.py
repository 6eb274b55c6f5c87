"""Batches of any size become records of R rows, by arithmetic alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tutelage.producers.stages.gather import Gather, RecordRows
from tutelage.schemas.record import Column, Ragged


def numbers(record: RecordRows) -> list[int]:
    return [int(value) for piece in record.columns["x"] for value in piece]  # type: ignore[union-attr]


def batches_of(sizes: list[int]) -> list[dict[str, Column]]:
    starts = np.cumsum([0, *sizes])
    return [
        {"x": np.arange(start, start + size)} for start, size in zip(starts, sizes, strict=False)
    ]


@given(st.integers(1, 9), st.lists(st.integers(0, 20), max_size=12), st.integers(0, 5))
def test_record_s_holds_rows_sR_to_s_plus_1_R(size: int, sizes: list[int], skipped: int) -> None:
    gather = Gather(size, skip_rows=skipped * size)
    records = [
        record
        for batch, rows in zip(batches_of(sizes), sizes, strict=True)
        for record in gather.add(batch, rows)
    ]
    records += gather.finish()
    total = sum(sizes)
    assert gather.rows == total
    expected = [
        list(range(start, min(start + size, total))) for start in range(skipped * size, total, size)
    ]
    assert [numbers(record) for record in records] == expected
    assert [record.sequence for record in records] == list(range(skipped, skipped + len(expected)))
    assert [record.rows for record in records] == [len(rows) for rows in expected]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 4))
def test_rows_that_were_not_read_count_as_written(sizes: list[int], size: int) -> None:
    gather = Gather(size, skip_rows=size)
    gather.pass_over(size)
    assert gather.skipping == 0
    for batch, rows in zip(batches_of(sizes), sizes, strict=True):
        gather.add(batch, rows)
    gather.finish()
    assert gather.rows == size + sum(sizes)


def test_pieces_are_views_until_they_are_owned() -> None:
    batch = np.arange(6)
    gather = Gather(4)
    (first,) = gather.add({"x": batch}, 6)
    assert np.shares_memory(first.columns["x"][0], batch)
    gather.own_pending()
    batch[:] = -1
    (rest,) = gather.finish()
    assert numbers(rest) == [4, 5]


def test_ragged_rows_keep_their_lengths() -> None:
    column = Ragged(np.arange(6), np.array([1, 0, 3, 2]))
    (first, second) = Gather(2).add({"x": column}, 4)
    pieces = [record.columns["x"][0] for record in (first, second)]
    assert [(p.values.tolist(), p.lengths.tolist()) for p in pieces if isinstance(p, Ragged)] == [
        ([0], [1, 0]),
        ([1, 2, 3, 4, 5], [3, 2]),
    ]
