"""Teachers are taken side by side; different lengths are an error before the batch in which they differ."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.streams import NUMBERS, arrivals_of, numbers_in, partitioned, records_of, stream_of

from tutelage.consumers.position import Position
from tutelage.consumers.stages.align import Align, AlignedEnd
from tutelage.consumers.stages.chunk import Chunk
from tutelage.consumers.stages.order import Order, PassEnd
from tutelage.consumers.stages.rebatch import Rebatch
from tutelage.schemas.errors import LengthMismatch


def items_of(rows: int, size: int, batch_size: int, chunk_bytes: int = 0) -> list[Chunk | PassEnd]:
    """What a teacher of so many rows gives: its chunks and its end."""
    stream = stream_of(rows_per_record=size)
    order = Order(stream, 1, Position())
    rebatch = Rebatch(
        batch_size,
        description=NUMBERS,
        partitions=1,
        position=Position(),
        chunk_bytes=chunk_bytes,
    )
    found: list[Chunk | PassEnd] = []
    for arrival in arrivals_of(partitioned(stream, records_of(stream, rows)))[0]:
        order.push(arrival)
        while (item := order.pop()) is not None:
            rebatch.push(item)
            while (chunk := rebatch.pop()) is not None:
                found.append(chunk)
            if isinstance(item, PassEnd):
                found.append(item)
    assert isinstance(found[-1], PassEnd)
    return found


def drawn(
    align: Align,
    given: Sequence[list[Chunk | PassEnd]],
    batch_size: int,
    found: list[list[list[int]]] | None = None,
) -> list[list[list[int]]]:
    """Each batch's numbers, teacher by teacher, chunks being handed over only when they are asked for."""
    queues = [list(items) for items in given]
    found = [] if found is None else found
    while True:
        while starving := align.starving():
            for index in starving:
                align.push(index, queues[index].pop(0))
        aligned = align.pop()
        if isinstance(aligned, AlignedEnd):
            return found
        found += [
            [numbers_in(share.dense("x"))[start : start + batch_size] for share in aligned.shares]
            for start in range(0, aligned.rows, batch_size)
        ]


chunk_sizes = st.integers(0, 300)


@given(
    st.integers(1, 30),
    st.integers(1, 9),
    st.integers(1, 5),
    st.integers(1, 5),
    chunk_sizes,
    chunk_sizes,
)
def test_every_batch_has_the_same_rows_of_all(
    rows: int, batch_size: int, size1: int, size2: int, chunk1: int, chunk2: int
) -> None:
    given_ = [items_of(rows, size1, batch_size, chunk1), items_of(rows, size2, batch_size, chunk2)]
    found = drawn(Align(["a", "b"], batch_size, [Position()] * 2), given_, batch_size)
    assert found == [
        [list(range(start, min(start + batch_size, rows)))] * 2
        for start in range(0, rows, batch_size)
    ]


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 9), chunk_sizes, chunk_sizes)
def test_different_lengths_are_an_error_or_truncated_when_asked(
    rows1: int, rows2: int, batch_size: int, chunk1: int, chunk2: int
) -> None:
    shorter = min(rows1, rows2)
    given_ = [items_of(rows1, 4, batch_size, chunk1), items_of(rows2, 3, batch_size, chunk2)]
    truncating = Align(["a", "b"], batch_size, [Position()] * 2, truncate=True)
    assert [n for batch in drawn(truncating, given_, batch_size) for n in batch[1]] == list(
        range(shorter)
    )
    strict = Align(["a", "b"], batch_size, [Position()] * 2)
    if rows1 == rows2:
        drawn(strict, given_, batch_size)
        return
    found: list[list[list[int]]] = []
    with pytest.raises(LengthMismatch, match=r"a has .*rows, b has .*rows"):
        drawn(strict, given_, batch_size, found)
    assert sum(len(batch[0]) for batch in found) == shorter - shorter % batch_size


def test_a_teacher_whose_next_batch_is_not_there_starves() -> None:
    align = Align(["a", "b"], 4, [Position()] * 2)
    align.push(0, items_of(4, 4, 4)[0])
    assert align.starving() == [1]
