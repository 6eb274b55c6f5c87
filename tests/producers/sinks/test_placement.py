"""Which partitions get a record, for a new run and for one that is continued."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.producers.sinks.placement import MissingRecords, RunPlacement
from tutelage.schemas.errors import SinkExists
from tutelage.schemas.record import End, RecordHead
from tutelage.schemas.tail import next_record

PASSES, RECORDS = 2, 7


def heads() -> list[RecordHead]:
    """Every record of a run, in the order in which it is written."""
    found = []
    for index in range(PASSES):
        found += [head(index, sequence) for sequence in range(RECORDS)]
        found.append(head(index, RECORDS, End(records=RECORDS, rows=RECORDS)))
    return found


def head(pass_index: int, sequence: int, end: End | None = None) -> RecordHead:
    return RecordHead(
        run_id="run",
        pass_index=pass_index,
        sequence=sequence,
        rows=0 if end is not None else 1,
        generation=0,
        end=end,
    )


@pytest.mark.parametrize("partitions", [1, 2, 3, 10])
def test_a_new_run_writes_each_record_once_and_an_end_to_every_partition(partitions: int) -> None:
    missing = MissingRecords.of_new_run(partitions)
    for each in heads():
        expected = list(range(partitions)) if each.end is not None else [each.sequence % partitions]
        assert missing.partitions_without(each) == expected


@given(st.integers(1, 4), st.data())
def test_a_continued_run_writes_to_each_partition_what_it_lacks(
    partitions: int, data: st.DataObject
) -> None:
    new = MissingRecords.of_new_run(partitions)
    logs = [
        [each for each in heads() if p in new.partitions_without(each)] for p in range(partitions)
    ]
    held = [
        data.draw(st.integers(0, len(log)), label=f"partition {p}") for p, log in enumerate(logs)
    ]
    first_missing = [
        next_record(log[:count], partition, partitions)
        for partition, (log, count) in enumerate(zip(logs, held, strict=True))
    ]
    continued = MissingRecords(first_missing)
    written: list[list[RecordHead]] = [[] for _ in range(partitions)]
    for each in heads():
        for partition in continued.partitions_without(each):
            written[partition].append(each)
    assert written == [log[count:] for log, count in zip(logs, held, strict=True)]


def test_a_new_run_begins_at_the_end_of_the_partitions_that_it_has() -> None:
    placement = RunPlacement.of_new_run("t", [5, 6, 7], 2)
    assert (placement.begins, placement.topic_ends) == ([5, 6], [5, 6, 7])
    assert RunPlacement.of_new_run("t", [5, 6, 7], None).begins == [5, 6, 7]


def test_a_run_cannot_have_more_partitions_than_its_topic() -> None:
    with pytest.raises(SinkExists, match="topic t has 2 partitions, fewer than the 3"):
        RunPlacement.of_new_run("t", [0, 0], 3)
