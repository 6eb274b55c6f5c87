"""Which rows each rank gets: every row once, the same batches for any number of ranks."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage import ConfigurationError
from tutelage.consumers.deal import Deal


@st.composite
def deals(draw: st.DrawFn) -> tuple[list[Deal], list[int]]:
    """The deal of each rank, and the rows of a record of each teacher."""
    ranks = draw(st.integers(1, 8))
    size = ranks * draw(st.integers(1, 24))
    records = draw(st.lists(st.sampled_from([1, 2, 3, 4, 8, 12, 64]), min_size=1, max_size=3))
    return [Deal.among(rank, ranks, size, records) for rank in range(ranks)], records


@given(deals(), st.integers(0, 200), st.integers(0, 100))
def test_every_row_of_a_range_is_dealt_to_one_rank(
    drawn: tuple[list[Deal], list[int]], start: int, rows: int
) -> None:
    dealt = [
        row
        for deal in drawn[0]
        for first, stop in deal.parts(start, start + rows)
        for row in range(first, stop)
    ]
    assert sorted(dealt) == list(range(start, start + rows))


@given(deals(), st.integers(0, 20))
def test_each_rank_has_the_same_share_of_a_whole_batch(
    drawn: tuple[list[Deal], list[int]], batch: int
) -> None:
    for deal in drawn[0]:
        size = deal.batch_size
        mine = deal.parts(batch * size, (batch + 1) * size)
        assert sum(stop - start for start, stop in mine) == deal.share == size // deal.ranks


@given(deals(), st.integers(0, 500))
def test_rows_are_counted_and_numbered_as_they_are_dealt(
    drawn: tuple[list[Deal], list[int]], rows: int
) -> None:
    for deal in drawn[0]:
        mine = [row for start, stop in deal.parts(0, rows) for row in range(start, stop)]
        assert deal.count(rows) == len(mine)
        assert [deal.row(number) for number in range(len(mine))] == mine


@given(deals(), st.integers(1, 12))
def test_a_rank_needs_just_the_partitions_that_hold_its_rows(
    drawn: tuple[list[Deal], list[int]], partitions: int
) -> None:
    deals_, (size, *_) = drawn
    for deal in deals_:
        period = math.lcm(deal.unit * deal.ranks, size * partitions)
        mine = {
            row // size % partitions
            for start, stop in deal.parts(0, period)
            for row in range(start, stop)
        }
        assert deal.partitions(size, partitions) == mine


@pytest.mark.parametrize(
    ("ranks", "batch_size", "records", "unit"),
    [
        (4, 1024, [64], 64),
        (4, 1024, [64, 256], 256),
        (4, 1024, [64, 128, 512], 128),
        (4, 1024, [1000], 256),
        (2, 8, [4096], 4),
    ],
)
def test_units_are_whole_records_where_a_share_holds_them(
    ranks: int, batch_size: int, records: list[int], unit: int
) -> None:
    assert Deal.among(1, ranks, batch_size, records).unit == unit


def test_where_partitions_divide_a_rank_reads_its_share_of_them() -> None:
    for ranks in (1, 2, 4, 8):
        found = [Deal.among(rank, ranks, 64, [4]).partitions(4, 8) for rank in range(ranks)]
        assert sorted(each for mine in found for each in mine) == list(range(8))
        assert {len(mine) for mine in found} == {8 // ranks}


def test_records_of_a_long_period_are_taken_to_be_everywhere() -> None:
    deal = Deal.among(0, 7, 7 * 99_991, [65_537])
    assert deal.records(65_537) is None
    assert deal.partitions(65_537, 3) == {0, 1, 2}


@pytest.mark.parametrize("arguments", [(0, 3, 8, [1]), (1, 2, 7, [4])])
def test_ranks_that_do_not_divide_the_batch_are_refused_with_a_size_that_fits(
    arguments: Any,
) -> None:
    with pytest.raises(ConfigurationError, match=r"must be a multiple of [23], such as [98]$"):
        Deal.among(*arguments)


@pytest.mark.parametrize(
    ("ranks", "records", "partitions", "skips", "amplification"),
    [
        (4, 4, 8, False, 1.0),
        (4, 4, 6, False, 2.0),
        (4, 4, 1, False, 4.0),
        (4, 4, 1, True, 1.0),
        (4, 64, 1, True, 4.0),
        (3, 4, 8, False, 3.0),
    ],
)
def test_what_a_rank_reads_is_known_beforehand(
    ranks: int, records: int, partitions: int, skips: bool, amplification: float
) -> None:
    deal = Deal.among(0, ranks, 16 * ranks, [records])
    assert deal.amplification(records, partitions, skips=skips) == pytest.approx(amplification)
