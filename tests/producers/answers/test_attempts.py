"""Queries that end their replicas are found, alone, and after as many deaths as are allowed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.producers.answers.attempts import Attempts
from tutelage.producers.answers.pool import Budget, QueryPool
from tutelage.producers.answers.query import PartitionOrder, Query
from tutelage.schemas.errors import (
    DeliveryFailed,
    DescriptionChanged,
    RecordTooLarge,
    SchemaError,
)
from tutelage.schemas.record import RecordHead, Stream

PARTITIONS = 3


def stream(run_id: str = "r") -> Stream:
    return Stream(
        run_id=run_id, teacher="t", revision="", inputs_fingerprint="", passes=1,
        partitions=PARTITIONS, rows_per_record=1, created=0.0, version="",
    )  # fmt: skip


def query(sequence: int) -> Query:
    partition = sequence % PARTITIONS
    return Query(
        partition=partition,
        offset=sequence // PARTITIONS,
        head=RecordHead(run_id="r", pass_index=0, sequence=sequence, rows=1, generation=0),
        columns={"x": np.zeros((1, 1))},
        nbytes=8,
        order=PartitionOrder(partition, PARTITIONS, (0, partition), 1),
    )


class Dies(Exception):
    """The replica was killed."""


class Group:
    """What survives replicas: the notes of their group, and the answers."""

    def __init__(self, queries: int, most: int | None) -> None:
        self._queries = queries
        self._most = most
        self.notes = dict.fromkeys(range(PARTITIONS), "")
        self.answered: set[int] = set()
        self.given_up: set[int] = set()
        self.deaths = 0

    def replica(self, poison: set[int], rows: int) -> None:
        """One replica, with all partitions, until it dies or all is answered."""
        attempts = Attempts(stream(), self._most)
        pool = QueryPool(Budget(rows=rows, linger_s=0), attempts.is_suspect)
        for partition in range(PARTITIONS):
            missing = partition
            while missing in self.answered:
                missing += PARTITIONS
            attempts.begin(partition, (0, missing), self.notes[partition])
        for sequence in range(self._queries):
            if sequence not in self.answered:
                pool.add(query(sequence), 0.0)
        while queries := pool.take(1.0):
            assert len(queries) == 1 or not any(map(attempts.is_suspect, queries))
            if attempts.is_given_up(queries[0]):
                self.given_up.add(queries[0].head.sequence)
            else:
                for partition, (_, note) in attempts.compute(queries).items():
                    self.notes[partition] = note
                if poison & {each.head.sequence for each in queries}:
                    self.deaths += 1
                    raise Dies
            for each in queries:
                self.answered.add(each.head.sequence)
                attempts.answered(each)
                noted = attempts.noted(each.partition)
                self.notes[each.partition] = noted[1] if noted is not None else ""


def run(group: Group, poison: set[int], rows: int, deaths: int) -> None:
    for _ in range(deaths + 1):
        try:
            return group.replica(poison, rows)
        except Dies:
            continue
    raise AssertionError(f"more than {deaths} replicas died")


@given(
    queries=st.integers(1, 20),
    rows=st.integers(1, 20),
    most=st.integers(2, 4),
    data=st.data(),
)
def test_only_what_kills_is_given_up_after_as_many_deaths(
    queries: int, rows: int, most: int, data: st.DataObject
) -> None:
    poison = data.draw(st.sets(st.integers(0, queries - 1), max_size=3))
    group = Group(queries, most)
    # One more for each, if the first that it ended had not begun with it.
    run(group, poison, rows, deaths=len(poison) * (most + 1))
    assert group.answered == set(range(queries))
    assert group.given_up == poison


def test_a_query_is_tried_for_ever_if_it_is_never_given_up() -> None:
    group = Group(4, None)
    with pytest.raises(AssertionError, match="more than 20 replicas died"):
        run(group, {2}, 2, deaths=20)
    assert not group.given_up


def test_what_is_handed_over_is_not_counted() -> None:
    notes = ""
    for _ in range(5):
        attempts = Attempts(stream(), 2)
        attempts.begin(1, (0, 1), notes)
        assert not attempts.is_suspect(query(1))
        ((_, noted),) = attempts.compute([query(1), query(4)]).values()
        assert noted
        ((_, notes),) = attempts.hand_over([0, 1, 2]).values()
        assert notes == ""


@pytest.mark.parametrize(
    ("error", "kinds", "is_counted"),
    [
        (ValueError(), (Exception,), True),
        (SchemaError(), (Exception,), True),
        (RecordTooLarge(), (SchemaError, RecordTooLarge), True),
        (DeliveryFailed(), (SchemaError, RecordTooLarge), False),
        (DescriptionChanged(), (SchemaError, RecordTooLarge), False),
        (DescriptionChanged(), (Exception,), False),
    ],
)
def test_a_failure_is_not_taken_back_if_the_query_is_to_blame(
    error: Exception, kinds: tuple[type[Exception], ...], is_counted: bool
) -> None:
    attempts = Attempts(stream(), 2)
    attempts.begin(1, (0, 1), "")
    attempts.compute([query(1)])
    before = attempts.noted(1)
    with pytest.raises(type(error)), attempts.blamed([query(1)], kinds):
        raise error
    assert attempts.hand_over([1]) == ({} if is_counted else {1: (0, "")})
    # What is committed while the replica ends has the same note.
    assert before is not None
    assert attempts.noted(1) == before


@pytest.mark.parametrize(
    "note",
    [
        "",
        "s queries 0 1 0 1 9",
        "r queries 0 4 0 4 9",
        "r queries 0 1 9",
        "r queries a b c d e",
        "by hand",
    ],
)
def test_other_notes_are_not_of_these_queries(note: str) -> None:
    attempts = Attempts(stream(), 2)
    attempts.begin(1, (0, 1), note)
    assert not attempts.ended(query(1))


def test_those_that_were_computed_with_one_that_ended_a_replica_are_suspect_once() -> None:
    attempts = Attempts(stream("with spaces queries 1"), 3)
    attempts.begin(1, (0, 1), "")
    ((offset, note),) = attempts.compute([query(1), query(2), query(4), query(7)]).values()
    assert offset == 0
    attempts = Attempts(stream("with spaces queries 1"), 3)
    attempts.begin(1, (0, 1), note)
    assert [attempts.ended(query(each)) for each in (1, 4, 7, 10, 2)] == [1, 1, 1, 0, 0]
    attempts.answered(query(1))
    assert [attempts.ended(query(each)) for each in (4, 7, 10)] == [1, 1, 0]
    for each in (4, 7):
        attempts.answered(query(each))
    assert attempts.noted(1) is None


def test_an_answer_that_was_sent_and_not_written_is_handed_over_as_none() -> None:
    attempts = Attempts(stream(), 2)
    attempts.begin(0, (0, 0), "r queries 0 0 0 0 1")
    # The group counts this replica too, until it hands the query over.
    assert attempts.compute([query(0)]) == {0: (0, "r queries 0 0 0 0 2")}
    attempts.answered(query(0))
    assert attempts.hand_over([0, 1]) == {0: (0, "r queries 0 0 0 0 1")}
    attempts.written(0)
    assert attempts.hand_over([0, 1]) == {}
