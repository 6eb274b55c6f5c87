"""Teachers are taken side by side; different lengths are an error before the batch in which they differ."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import arrivals_of, numbers_in, partitioned, records_of, stream_of

from tutelage.consumers.align import Align
from tutelage.consumers.order import Order
from tutelage.consumers.rebatch import Rebatch
from tutelage.consumers.source import Position
from tutelage.schemas.errors import LengthMismatch


def filled(rows: int, size: int, batch_size: int) -> Rebatch:
    stream = stream_of(rows_per_record=size)
    order = Order(stream, 1, Position())
    rebatch = Rebatch(batch_size, partitions=1, rows_per_record=size, position=Position())
    for arrival in arrivals_of(partitioned(stream, records_of(stream, rows)))[0]:
        order.push(arrival)
        while (item := order.pop()) is not None:
            rebatch.push(item)
    return rebatch


def drawn(align: Align) -> list[list[list[int]]]:
    found = []
    while (aligned := align.pop()) is not None:
        found.append(
            [
                [n for piece in share.pieces for n in numbers_in(piece.columns["x"])[piece.start : piece.stop]]
                for share in aligned.shares
            ]
        )
    return found


@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 5), st.integers(1, 5))
def test_every_batch_has_the_same_rows_of_all(rows: int, batch_size: int, size1: int, size2: int) -> None:
    found = drawn(Align(["a", "b"], [filled(rows, size1, batch_size), filled(rows, size2, batch_size)]))
    assert found == [[list(range(start, min(start + batch_size, rows)))] * 2 for start in range(0, rows, batch_size)]


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 9))
def test_different_lengths_are_an_error_or_truncated_when_asked(rows1: int, rows2: int, batch_size: int) -> None:
    shorter = min(rows1, rows2)
    truncating = Align(["a", "b"], [filled(rows1, 4, batch_size), filled(rows2, 3, batch_size)], truncate=True)
    assert [n for batch in drawn(truncating) for n in batch[1]] == list(range(shorter))
    strict = Align(["a", "b"], [filled(rows1, 4, batch_size), filled(rows2, 3, batch_size)])
    if rows1 == rows2:
        drawn(strict)
        return
    with pytest.raises(LengthMismatch, match=f"a has {rows1} rows, b has {rows2} rows"):
        drawn(strict)


def test_a_teacher_whose_next_batch_is_not_there_starves() -> None:
    empty = Rebatch(4, partitions=1, rows_per_record=4, position=Position())
    assert Align(["a", "b"], [filled(4, 4, 4), empty]).starving() == [1]
