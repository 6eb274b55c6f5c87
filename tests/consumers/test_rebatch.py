"""Records of R rows become batches of the student's size, from any position; the row arithmetic of both sides meets here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import arrivals_of, numbers_in, partitioned, records_of, stream_of

from tutelage.consumers.order import Order, PassEnd
from tutelage.consumers.rebatch import Pieces, Rebatch
from tutelage.consumers.source import Position
from tutelage.schemas.errors import CorruptData
from tutelage.schemas.record import Stream


def batches_of(stream: Stream, logs: list[list[bytes]], batch_size: int, position: Position) -> list[Pieces]:
    """All batches from a position on, as a source, an order and a rebatch give them."""
    order = Order(stream, stream.partitions, position)
    rebatch = Rebatch(batch_size, partitions=stream.partitions, rows_per_record=stream.rows_per_record, position=position)
    found: list[Pieces] = []
    starts = [max(0, offset) for offset in position.offsets] or [0] * len(logs)
    for queue in arrivals_of(logs, starts):
        for arrival in queue:
            order.push(arrival)
    while (item := order.pop()) is not None:
        rebatch.push(item)
        while rebatch.ready():
            found.append(rebatch.pop())
        if isinstance(item, PassEnd):
            break
    return found


def numbers(pieces: Pieces) -> list[int]:
    return [number for piece in pieces.pieces for number in numbers_in(piece.columns["x"])[piece.start : piece.stop]]


@given(st.integers(1, 4), st.integers(1, 7), st.integers(1, 40), st.integers(1, 12))
def test_batches_are_the_rows_in_order_and_every_position_gives_the_rest(
    partitions: int, size: int, rows: int, batch_size: int
) -> None:
    stream = stream_of(partitions=partitions, rows_per_record=size, passes=2)
    records = [*records_of(stream, rows), *records_of(stream, rows, pass_index=1)]
    logs = partitioned(stream, records)
    whole = batches_of(stream, logs, batch_size, Position())
    assert [numbers(batch) for batch in whole] == [
        list(range(start, min(start + batch_size, rows))) for start in range(0, rows, batch_size)
    ]
    for done, batch in enumerate(whole, start=1):
        rest = batches_of(stream, logs, batch_size, batch.position)
        assert [numbers(one) for one in rest] == [numbers(one) for one in whole[done:]]


def test_a_batch_may_be_taken_in_part() -> None:
    stream = stream_of(rows_per_record=4)
    rebatch = Rebatch(6, partitions=1, rows_per_record=4, position=Position())
    for arrival in arrivals_of(partitioned(stream, records_of(stream, 8)))[0][:2]:
        rebatch.push(arrival)
    assert rebatch.ready()
    assert numbers(rebatch.pop(5)) == [0, 1, 2, 3, 4]
    assert not rebatch.ready()


def test_an_end_that_counts_other_rows_is_refused() -> None:
    stream = stream_of(rows_per_record=4)
    logs = partitioned(stream, records_of(stream, 8))
    logs[0][-1] = partitioned(stream, records_of(stream, 7))[0][-1]
    with pytest.raises(CorruptData, match="ends with 7 rows, but 8 came"):
        batches_of(stream, logs, 3, Position())
