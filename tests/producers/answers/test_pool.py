"""Queries wait for one another within limits, and leave in the order of their partitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage import ConfigurationError
from tutelage.producers.answers.pool import Budget, QueryPool
from tutelage.producers.answers.query import PartitionOrder, Query
from tutelage.schemas.record import Column, End, Ragged, RecordHead


def query(
    partition: int,
    sequence: int,
    *,
    rows: int = 2,
    longest: int | None = None,
    end: bool = False,
    pass_index: int = 0,
) -> Query:
    columns: dict[str, Column] = {"x": np.zeros((rows, 1), np.float32)}
    if longest is not None:
        columns["ids"] = Ragged(np.zeros(rows * longest, np.int64), np.full(rows, longest))
    return Query(
        partition=partition,
        offset=sequence,
        head=RecordHead(
            run_id="r",
            pass_index=pass_index,
            sequence=sequence,
            rows=0 if end else rows,
            generation=0,
            end=End(records=sequence, rows=0) if end else None,
        ),
        columns={} if end else columns,
        nbytes=longest or 10,
        order=PartitionOrder(partition, 4, (0, partition), 1),
    )


def test_a_query_waits_for_others_until_the_linger_is_over() -> None:
    pool = QueryPool(Budget(rows=8, linger_s=0.5))
    pool.add(query(0, 0), now=10.0)
    assert pool.take(10.4) == []
    pool.add(query(1, 1), now=10.4)
    assert [each.head.sequence for each in pool.take(10.5)] == [0, 1]
    assert (len(pool), pool.rows, pool.nbytes) == (0, 0, 0)


def test_a_full_call_does_not_wait() -> None:
    pool = QueryPool(Budget(rows=4, linger_s=60))
    for sequence in range(5):
        pool.add(query(sequence, sequence), now=0.0)
    assert [each.head.sequence for each in pool.take(0.0)] == [0, 1]
    assert [each.head.sequence for each in pool.take(0.0)] == [2, 3]
    assert pool.take(0.0) == []


def test_padding_counts_as_tokens() -> None:
    pool = QueryPool(Budget(rows=100, elements=40, linger_s=0))
    for sequence, longest in enumerate((5, 5, 10, 30)):
        pool.add(query(0, sequence, longest=longest), now=0.0)
    # 2 rows of 5 and 2 of 5 are 20 tokens; with 2 of 10 they would be 6 of 10.
    assert [each.head.sequence for each in pool.take(0.0)] == [0, 1]
    assert [each.head.sequence for each in pool.take(0.0)] == [2]
    # One query alone may be larger.
    assert [each.head.sequence for each in pool.take(0.0)] == [3]


def test_an_end_and_another_pass_are_taken_apart() -> None:
    pool = QueryPool(Budget(rows=100, linger_s=0))
    for each in (
        query(0, 0),
        query(0, 1, end=True),
        query(0, 0, pass_index=1),
        query(1, 1, pass_index=1),
    ):
        pool.add(each, now=0.0)
    assert [len(pool.take(1.0)) for _ in range(4)] == [1, 1, 2, 0]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(1, 9)), max_size=30),
    st.integers(1, 12),
    st.integers(1, 60),
)
def test_every_query_leaves_once_in_order_and_no_call_is_over_its_budget(
    given_queries: list[tuple[int, int, int]], rows: int, elements: int
) -> None:
    pool = QueryPool(Budget(rows=rows, elements=elements, linger_s=0))
    queries = [
        query(partition, number, rows=count, longest=longest)
        for number, (partition, count, longest) in enumerate(given_queries)
    ]
    for each in queries:
        pool.add(each, now=0.0)
    taken: list[Query] = []
    while call := pool.take(0.0):
        count = sum(each.head.rows for each in call)
        longest = max(each.nbytes for each in call)
        assert len(call) == 1 or (count <= rows and count * longest <= elements)
        taken += call
    assert taken == queries
    assert pool.nbytes == 0


@given(st.permutations(range(12)))
def test_what_a_student_needs_first_leaves_first_whenever_it_came(order: list[int]) -> None:
    pool = QueryPool(Budget(rows=4, linger_s=0))
    for sequence in order:
        pool.add(query(sequence % 3, sequence), now=0.0)
    taken: list[int] = []
    while call := pool.take(0.0):
        taken += [each.head.sequence for each in call]
    assert taken == list(range(12))


def test_queries_of_partitions_that_are_gone_are_dropped() -> None:
    pool = QueryPool(Budget(rows=8, linger_s=0))
    for sequence in range(4):
        pool.add(query(sequence % 2, sequence), now=0.0)
    pool.drop({0})
    assert [each.head.sequence for each in pool.take(0.0)] == [1, 3]


def test_a_budget_of_nothing_is_refused() -> None:
    for wrong in ({"rows": 0}, {"elements": 0}, {"linger_s": -1.0}):
        with pytest.raises(ConfigurationError):
            Budget(**wrong)
