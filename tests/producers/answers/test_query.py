"""The order of one partition's queries: each is accepted once, whatever was written twice, and a gap is an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.producers.answers.query import PartitionOrder
from tutelage.schemas.errors import SequenceGap
from tutelage.schemas.record import End, RecordHead
from tutelage.schemas.topic import first_in


def head(sequence: int, pass_index: int = 0, end: End | None = None) -> RecordHead:
    return RecordHead(
        run_id="r",
        pass_index=pass_index,
        sequence=sequence,
        rows=0 if end else 2,
        generation=0,
        end=end,
    )


def partition_log(partition: int, partitions: int, records: int, passes: int) -> list[RecordHead]:
    """What one partition holds of a run, without duplicates."""
    found = []
    for index in range(passes):
        found += [
            head(each, index)
            for each in range(first_in(partition, 0, partitions), records, partitions)
        ]
        found.append(head(records, index, End(records=records, rows=2 * records)))
    return found


def key(each: RecordHead) -> tuple[int, bool, int]:
    return each.pass_index, each.end is not None, each.sequence


@given(data=st.data())
def test_every_query_is_accepted_once_and_in_order_whatever_was_written_twice(
    data: st.DataObject,
) -> None:
    partitions = data.draw(st.integers(1, 4))
    partition = data.draw(st.integers(0, partitions - 1))
    log = partition_log(
        partition, partitions, data.draw(st.integers(0, 9)), data.draw(st.integers(1, 3))
    )
    passes = log[-1].pass_index + 1
    # Writers that were restarted write some of the last records again.
    written: list[RecordHead] = []
    for number, each in enumerate(log):
        written.append(each)
        again = data.draw(st.integers(0, number + 1))
        written += log[number + 1 - again : number + 1] if data.draw(st.booleans()) else []
    answered = data.draw(st.integers(0, len(log)))
    missing = (0, partition)
    before = PartitionOrder(partition, partitions, missing, passes)
    for each in log[:answered]:
        assert before.accept(each, "here")
    order = PartitionOrder(partition, partitions, before._missing, passes)
    accepted = []
    for each in written:
        assert not order.is_too_late(each)
        if order.accept(each, "here"):
            accepted.append(each)
    assert [key(each) for each in accepted] == [key(each) for each in log[answered:]]
    assert order.ended
    assert order.passed <= len(log)


@given(data=st.data())
def test_a_lost_query_is_an_error_or_a_reason_to_read_from_the_beginning(
    data: st.DataObject,
) -> None:
    partitions = data.draw(st.integers(1, 3))
    partition = data.draw(st.integers(0, partitions - 1))
    log = partition_log(partition, partitions, data.draw(st.integers(partitions, 9)), 1)
    lost = data.draw(st.integers(0, len(log) - 2))
    order = PartitionOrder(partition, partitions, (0, partition), 1)
    rest = log[:lost] + log[lost + 1 :]
    if lost == 0:
        # Reading may have begun too late, which only the first record can show.
        assert order.is_too_late(rest[0])
        assert not order.is_too_late(rest[0])
    with pytest.raises(SequenceGap, match="here: .* the topic of queries has lost records"):
        for each in rest:
            order.is_too_late(each)
            order.accept(each, "here")


def test_reading_begins_behind_the_answered_queries() -> None:
    for answered in range(5):
        order = PartitionOrder(1, 3, (0, 1 + 3 * answered), 1)
        assert order.passed == answered
    assert PartitionOrder(0, 3, (1, 0), 1).ended
