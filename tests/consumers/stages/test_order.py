"""Partitions become one stream in any order of arrival. Duplicates are dropped; gaps and records of
other runs are errors.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.streams import NUMBERS, arrivals_of, numbers_in, partitioned, records_of, stream_of

from tutelage.consumers.position import Position
from tutelage.consumers.sources.base import ConsumedRecord
from tutelage.consumers.stages.order import Order, PassEnd
from tutelage.schemas.codec import Codec
from tutelage.schemas.errors import CorruptData, RunMismatch, SequenceGap
from tutelage.schemas.record import End, RecordHead, Stream
from tutelage.schemas.topic import BEGINNING


def run(
    stream: Stream,
    arrivals: list[list[ConsumedRecord]],
    seed: int,
    position: Position | None = None,
) -> tuple[list[int], Order]:
    """Push partitions interleaved at random; return the numbers that come out (-1: a pass's end)."""
    order = Order(stream, stream.partitions, position or Position())
    chooser = random.Random(seed)
    queues = [list(queue) for queue in arrivals]
    found: list[int] = []
    while any(queues):
        order.push(chooser.choice([queue for queue in queues if queue]).pop(0))
        while (item := order.pop()) is not None:
            found += (
                [-1] if isinstance(item, PassEnd) else numbers_in(item.record.load().columns["x"])
            )
    return found, order


@given(
    st.integers(1, 8), st.integers(1, 5), st.integers(1, 60), st.integers(0, 999), st.integers(1, 3)
)
def test_any_interleaving_gives_the_same_stream(
    partitions: int, size: int, rows: int, seed: int, passes: int
) -> None:
    stream = stream_of(partitions=partitions, rows_per_record=size, passes=passes)
    records = [
        record for index in range(passes) for record in records_of(stream, rows, pass_index=index)
    ]
    found, order = run(stream, arrivals_of(partitioned(stream, records)), seed)
    assert found == [
        number
        for index in range(passes)
        for number in [*range(1000 * index, 1000 * index + rows), -1]
    ]
    assert (order.duplicates, order.zombies, order.pending_bytes) == (0, 0, 0)


@given(st.integers(1, 4), st.integers(1, 40), st.integers(0, 999), st.data())
def test_restarted_writers_and_zombies_never_show(
    partitions: int, rows: int, seed: int, data: st.DataObject
) -> None:
    """Each partition holds the run in sequence. Earlier records may be repeated after any record."""
    stream = stream_of(partitions=partitions, rows_per_record=3)
    logs: list[list[bytes]] = []
    repeated = 0
    for log in partitioned(stream, records_of(stream, rows)):
        mixed: list[bytes] = []
        for index, body in enumerate(log):
            mixed.append(body)
            again = data.draw(st.lists(st.integers(0, index), max_size=2))
            mixed += [log[at] for at in again]
            repeated += len(again)
        logs.append(mixed)
    found, order = run(stream, arrivals_of(logs), seed)
    assert found == [*range(rows), -1]
    # Repeated records are counted wherever they lie, also behind the end of a partition.
    assert order.duplicates == repeated


@given(st.integers(1, 4), st.integers(1, 40), st.integers(0, 999), st.data())
def test_a_missing_record_is_a_gap_named_by_its_place(
    partitions: int, rows: int, seed: int, data: st.DataObject
) -> None:
    stream = stream_of(partitions=partitions, rows_per_record=3)
    logs = partitioned(stream, records_of(stream, rows))
    records = -(-rows // 3)
    missing = data.draw(st.integers(0, records - 1))
    del logs[missing % partitions][missing // partitions]
    with pytest.raises(
        SequenceGap, match=rf"partition {missing % partitions}, offset \d+.*record {missing} "
    ):
        run(stream, arrivals_of(logs), seed)


@given(st.integers(1, 4), st.integers(1, 30), st.integers(0, 99), st.data())
def test_reading_goes_on_from_any_position(
    partitions: int, rows: int, seed: int, data: st.DataObject
) -> None:
    stream = stream_of(partitions=partitions, rows_per_record=2)
    logs = partitioned(stream, records_of(stream, rows))
    sequence = data.draw(st.integers(0, -(-rows // 2)))
    # Offsets may lag behind the sequence. Records that are read again are dropped, but not counted
    # as duplicates.
    used = [len(range(partition, sequence, partitions)) for partition in range(partitions)]
    offsets = tuple(data.draw(st.integers(0, count)) for count in used)
    found, order = run(
        stream, arrivals_of(logs, offsets), seed, Position(sequence=sequence, offsets=offsets)
    )
    assert found == [*range(2 * sequence, rows), -1]
    assert order.duplicates == 0


def test_the_second_pass_can_be_read_from_the_beginning() -> None:
    stream = stream_of(partitions=2, passes=2)
    records = [*records_of(stream, 10), *records_of(stream, 10, pass_index=1)]
    found, _ = run(stream, arrivals_of(partitioned(stream, records)), 0, Position(pass_index=1))
    assert found == [*range(1000, 1010), -1]


def test_a_dying_writers_records_are_counted() -> None:
    stream = stream_of()
    young, old = records_of(stream, 8, generation=1), records_of(stream, 8)
    found, order = run(stream, arrivals_of(partitioned(stream, [young[0], old[1], old[2]])), 0)
    assert found == [*range(8), -1]
    assert order.zombies == 2


def test_a_pass_ends_only_when_every_partition_says_so() -> None:
    stream = stream_of(partitions=3)
    arrivals = arrivals_of(partitioned(stream, records_of(stream, 4)))
    order = Order(stream, 3, Position())
    order.push(arrivals[0][0])
    assert isinstance(order.pop(), ConsumedRecord)
    for partition in (0, 1):
        order.push(arrivals[partition][-1])
        assert order.pop() is None
    order.push(arrivals[2][-1])
    end = order.pop()
    assert isinstance(end, PassEnd)
    assert end.next_pass == Position(pass_index=1, offsets=(2, 1, 1))


@given(st.integers(1, 8), st.integers(1, 60), st.integers(0, 999), st.integers(1, 3))
def test_what_must_come_next_is_never_among_the_others(
    partitions: int, rows: int, seed: int, passes: int
) -> None:
    """A source whose partitions are paused in turn always reaches the end.

    `others` says which partitions may be paused; any number of records may come before a pause.
    """
    stream = stream_of(partitions=partitions, rows_per_record=3, passes=passes)
    records = [
        record for index in range(passes) for record in records_of(stream, rows, pass_index=index)
    ]
    queues = arrivals_of(partitioned(stream, records))
    order, chooser, ends = Order(stream, partitions, Position()), random.Random(seed), 0
    while ends < passes:
        free = [
            partition
            for partition in range(partitions)
            if queues[partition] and chooser.random() < 0.3
        ]
        needed = [partition for partition in range(partitions) if partition not in order.others()]
        awaited, _ = order.waiting_for
        assert awaited in needed
        assert all(queues[partition] for partition in needed)
        order.push(queues[chooser.choice([*free, *needed])].pop(0))
        while (item := order.pop()) is not None:
            ends += isinstance(item, PassEnd)


def test_a_missing_end_is_what_is_waited_for() -> None:
    stream = stream_of(partitions=3)
    arrivals = arrivals_of(partitioned(stream, records_of(stream, 4)))
    order = Order(stream, 3, Position())
    assert order.waiting_for == (0, "record 0 of pass 0")
    order.push(arrivals[0][0])
    assert isinstance(order.pop(), ConsumedRecord)
    assert (order.waiting_for, order.others()) == ((1, "record 1 of pass 0"), frozenset({0, 2}))
    order.push(arrivals[1][0])
    assert (order.waiting_for, order.others()) == ((0, "the end of pass 0"), frozenset({1}))
    order.push(arrivals[0][1])
    assert (order.waiting_for, order.others()) == ((2, "the end of pass 0"), frozenset({0, 1}))


def pushed(stream: Stream, logs: list[list[bytes]]) -> None:
    run(stream, arrivals_of(logs), 0)


def test_strangers_are_refused() -> None:
    stream = stream_of(partitions=2)
    other = stream_of(partitions=2, run_id="other")
    with pytest.raises(RunMismatch, match="run other"):
        pushed(stream, partitioned(other, records_of(other, 9)))
    with pytest.raises(SequenceGap, match="end of pass 0 is missing"):
        pushed(stream, partitioned(stream, records_of(stream, 9, pass_index=1)))
    with pytest.raises(SequenceGap, match=r"record . is missing here"):
        pushed(stream, partitioned(stream, records_of(stream, 9, end_only=True)))
    wrong_place = partitioned(stream, records_of(stream, 9))
    with pytest.raises((RunMismatch, SequenceGap), match=r"partition ."):
        pushed(stream, wrong_place[::-1])


def test_ends_that_differ_are_refused() -> None:
    stream = stream_of(partitions=2)
    logs = partitioned(stream, records_of(stream, 9))
    logs[1][-1] = partitioned(stream, records_of(stream, 12))[1][-1]
    with pytest.raises(RunMismatch, match="the teacher's inputs changed"):
        pushed(stream, logs)


def test_a_short_record_is_only_a_passs_last() -> None:
    stream, short = stream_of(rows_per_record=4), stream_of(rows_per_record=3)
    with pytest.raises(CorruptData, match="only the last may"):
        pushed(stream, partitioned(short, records_of(short, 9)))
    with pytest.raises(CorruptData, match="has 4 rows, the run has 3"):
        pushed(short, partitioned(stream, records_of(stream, 9)))


@pytest.mark.parametrize("first", [0, 1, 2])
def test_an_end_that_counts_other_rows_than_came_is_refused(first: int) -> None:
    stream = stream_of(rows_per_record=4)
    (log,) = partitioned(stream, records_of(stream, 8))

    def read(rows_at_end: int) -> list[int]:
        head = RecordHead(
            run_id=stream.run_id,
            pass_index=0,
            sequence=2,
            rows=0,
            generation=0,
            end=End(records=2, rows=rows_at_end),
        )
        bodies = [*log[:-1], Codec(NUMBERS).encode(head, {}).joined()]
        return run(stream, arrivals_of([bodies]), 0, Position(sequence=first))[0]

    assert read(8) == [*range(4 * first, 8), -1]
    # Reading began behind the last record, which may be short: 7 rows are as valid as 8.
    for rows in (3, 9) if first == 2 else (3, 7, 9):
        with pytest.raises(CorruptData, match=f"pass 0 ends with {rows} rows, but 8 came"):
            read(rows)
    assert first < 2 or read(7) == [-1]


@given(st.integers(1, 6), st.integers(0, 40), st.data())
def test_of_the_partitions_that_are_needed_every_record_comes_and_of_others_none(
    partitions: int, rows: int, data: st.DataObject
) -> None:
    needed = frozenset(data.draw(st.sets(st.integers(0, partitions - 1), min_size=1)))
    stream = stream_of(partitions=partitions)
    order = Order(stream, partitions, Position(), needed=needed)
    for log in arrivals_of(partitioned(stream, records_of(stream, rows))):
        for arrival in log:
            order.push(arrival)
    found = []
    while isinstance(item := order.pop(), ConsumedRecord):
        found.append(item.record.head.sequence)
    assert found == [each for each in range(-(-rows // 4)) if each % partitions in needed]
    assert isinstance(item, PassEnd) and item.end.rows == rows
    known = [offset != BEGINNING for offset in item.next_pass.offsets]
    assert known == [partition in needed for partition in range(partitions)]


@pytest.mark.parametrize(
    ("rows", "ended", "refused"), [(8, 9, True), (8, 11, True), (10, 12, False)]
)
def test_an_end_that_counts_other_rows_is_refused_if_the_last_record_is_needed(
    rows: int, ended: int, refused: bool
) -> None:
    stream = stream_of(partitions=2)
    records = records_of(stream, rows)
    (*_, (head, _)) = records
    assert head.end is not None
    changed = replace(head, end=replace(head.end, rows=ended))
    records[-1] = (changed, Codec(NUMBERS).encode(changed, {}).joined())
    for partition in (0, 1):
        order = Order(stream, 2, Position(), needed=frozenset({partition}))
        for arrival in arrivals_of(partitioned(stream, records))[partition]:
            order.push(arrival)
        last = (head.end.records - 1) % 2 == partition
        if refused or last:
            with pytest.raises(CorruptData, match=f"ends with {ended:,} rows, but"):
                while isinstance(order.pop(), ConsumedRecord):
                    pass
        else:
            while isinstance(item := order.pop(), ConsumedRecord):
                pass
            assert isinstance(item, PassEnd)
