"""Which records each of several writers writes, and that they are those which a student of that rank reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tutelage import (
    ConfigurationError,
    FileSink,
    LengthMismatch,
    MemorySink,
    MemorySource,
    MemoryTopic,
    QueryWriter,
    RunMismatch,
    SchemaError,
    SinkExists,
    Student,
    WaitTimeout,
)
from tutelage.consumers.deal import Deal
from tutelage.producers.record_share import RecordShare
from tutelage.schemas.topic import partition_for

ROWS = 2


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.data())
def test_a_rank_writes_just_what_a_student_of_that_rank_reads(
    ranks: int, size: int, records_of_a_share: int, turns: int, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, ranks - 1))
    share = RecordShare(rank=rank, ranks=ranks)
    deal = Deal.among(rank, ranks, ranks * records_of_a_share * size, [size])
    partitions = turns * ranks
    assert deal.partitions(size, partitions) == frozenset(share.owned(partitions))
    for number in range(3 * partitions):
        sequence = share.sequence(number)
        assert deal.row(number * size) == sequence * size
        assert partition_for(sequence, partitions) in share.owned(partitions)
        assert share.count(sequence) == number
        assert share.count(sequence + 1) == number + 1


def queries(topic: MemoryTopic, rank: int, ranks: int, **options: object) -> QueryWriter:
    given_ = {"rows_per_record": ROWS, "run_id": "asked", "timeout_s": 0.3, **options}
    return QueryWriter(MemorySink(topic), shard=(rank, ranks), **given_)  # type: ignore[arg-type]


def rows_of(rank: int, ranks: int, first: int, stop: int) -> dict[str, torch.Tensor]:
    """A rank's rows `first` to `stop`: their numbers in the run."""
    own = torch.arange(first, stop)
    return {"x": (own // ROWS * ranks + rank) * ROWS + own % ROWS}


def read(topic: MemoryTopic) -> list[int]:
    student = Student(timeout_s=5)
    student.register_teacher(MemorySource(topic))
    with student:
        return [int(x) for batch in student.knowledge(3) for x in batch["x"]]


@pytest.mark.parametrize("ranks", [1, 2, 3, 6])
def test_what_ranks_write_is_the_run_that_one_writer_would_write(ranks: int) -> None:
    topic = MemoryTopic(partitions=6)
    stop = 24 // ranks
    writers = [queries(topic, rank, ranks) for rank in range(ranks)]
    for writer in writers:
        writer.start()
    for half in ((0, stop // 2 // ROWS * ROWS), (stop // 2 // ROWS * ROWS, stop)):
        for rank, writer in enumerate(writers):
            if half[0] < half[1]:
                writer.write(rows_of(rank, ranks, *half))
    for rank, writer in enumerate(writers):
        assert writer.rows == stop
        writer.end()
        assert repr(writer).count(f"rank {rank} of {ranks}") == (ranks > 1)
    assert read(topic) == list(range(24))
    # Each message names the same run, made at the same time.
    headers = {tuple(each.headers) for log in topic.logs for each in log}
    assert len(headers) == 1


@pytest.mark.parametrize("then", [1, 2, 4])
def test_ranks_that_were_killed_at_different_places_write_what_their_partitions_lack(
    then: int,
) -> None:
    topic = MemoryTopic(partitions=4)
    for rank, rows in ((0, 10), (1, 4)):
        with queries(topic, rank, 2) as writer:
            writer.write(rows_of(rank, 2, 0, rows))
    # With other ranks a rank has the rows before the first record that its partitions lack.
    expected = {1: [10], 2: [10, 4], 4: [6, 2, 4, 2]}[then]
    writers = [queries(topic, rank, then) for rank in range(then)]
    found = []
    for rank, writer in enumerate(writers):
        writer.start()
        found.append(writer.rows)
        assert not writer.ended
        writer.write(rows_of(rank, then, writer.rows, 32 // then))
        writer.end()
    assert found == expected
    assert read(topic) == list(range(32))
    with queries(topic, then - 1, then) as writer:
        assert (writer.rows, writer.ended) == (32 // then, True)


def test_an_end_that_one_rank_lacks_is_written_by_it() -> None:
    topic = MemoryTopic(partitions=2)
    for rank in range(2):
        with queries(topic, rank, 2) as writer:
            writer.write(rows_of(rank, 2, 0, 4))
            if rank == 0:
                writer.end()
    for rank in range(2):
        with queries(topic, rank, 2) as writer:
            assert (writer.rows, writer.ended) == (4, rank == 0)
            writer.end()
    assert read(topic) == list(range(8))


def test_ranks_that_wrote_differently_many_rows_are_found_by_readers() -> None:
    topic = MemoryTopic(partitions=2)
    for rank, rows in ((0, 4), (1, 6)):
        with queries(topic, rank, 2) as writer:
            writer.write(rows_of(rank, 2, 0, rows))
            writer.end()
    with pytest.raises(RunMismatch, match="4 records, 8 rows.*6 records, 12 rows|6 records, 12"):
        read(topic)


def test_another_rank_waits_for_rank_0_to_begin() -> None:
    topic = MemoryTopic(partitions=2)
    with queries(topic, 1, 2) as first:
        assert (first.rows, first.run_id) == (0, "asked")
        with pytest.raises(WaitTimeout, match=r"rank 0 to begin run asked in .*rank 1 has rows"):
            first.write(rows_of(1, 2, 0, 2))
        with queries(topic, 0, 2) as zero:
            zero.write(rows_of(0, 2, 0, 2))
        first.write(rows_of(1, 2, 0, 2))
        first.end()
    with queries(topic, 0, 2) as zero:
        zero.end()
    assert read(topic) == [0, 1, 2, 3]


def test_a_new_run_behind_an_older_one_is_begun_by_rank_0_whoever_starts_first() -> None:
    topic = MemoryTopic(partitions=2)
    with queries(topic, 0, 1, run_id="older") as older:
        older.write({"x": torch.arange(100, 104)})
        older.end()
    with pytest.raises(SinkExists, match="run_id 'older' there, 'newer' here"):
        queries(topic, 1, 2, run_id="newer").start()
    for rank in (1, 0):
        writer = queries(topic, rank, 2, run_id="newer", new_run=True)
        writer.start()
        assert (writer.rows, writer.ended) == (0, False)
        if rank == 0:
            writer.write(rows_of(0, 2, 0, 2))
            writer.end()
    with queries(topic, 1, 2, run_id="newer", new_run=True) as one:
        one.write(rows_of(1, 2, 0, 2))
        one.end()
    assert read(topic) == [0, 1, 2, 3]


def test_a_rank_with_other_arguments_or_keys_than_rank_0_is_refused() -> None:
    topic = MemoryTopic(partitions=2)
    with queries(topic, 1, 2) as one, queries(topic, 1, 2, rows_per_record=4) as large:
        with queries(topic, 0, 2) as zero:
            zero.write(rows_of(0, 2, 0, 2))
        with pytest.raises(SinkExists, match="2 rows per record there, 4 here"):
            large.write({"x": torch.arange(4)})
        with pytest.raises(SchemaError, match="the keys differ between batches"):
            one.write({"y": torch.arange(2)})


def test_partitions_that_ranks_cannot_share_are_refused() -> None:
    with pytest.raises(
        ConfigurationError,
        match="has 3 partitions, which 2 ranks cannot share.*a multiple of 2, such as 4",
    ):
        queries(MemoryTopic(partitions=3), 0, 2).start()


def test_ranks_without_a_run_id_and_without_a_process_group_are_refused() -> None:
    for rank in range(2):
        with pytest.raises(ConfigurationError, match="no process group. Give run_id, the same"):
            queries(MemoryTopic(partitions=2), rank, 2, run_id=None).start()


def test_a_file_has_one_writer(tmp_path: object) -> None:
    with pytest.raises(ConfigurationError, match="has one writer; several ranks write to a topic"):
        QueryWriter(
            FileSink(f"{tmp_path}/queries.avro"), rows_per_record=1, run_id="a", shard=(0, 2)
        ).start()


@pytest.mark.parametrize("rows", [16, 14])
def test_whole_batches_are_given_without_the_next_one_and_checked_at_the_end(rows: int) -> None:
    topic = MemoryTopic(partitions=2)
    student = Student(timeout_s=1, shard=(0, 2))
    student.register_teacher(MemorySource(topic))
    with queries(topic, 0, 1) as writer, student:
        writer.write({"x": torch.arange(8)})
        batches = student.knowledge(4, whole_batches=True)
        assert np.array_equal(next(batches)["x"], [0, 1, 4, 5])
        writer.write({"x": torch.arange(8, rows)})
        writer.end()
        if rows == 16:
            assert [batch["x"].tolist() for batch in batches] == [[8, 9, 12, 13]]
        else:
            with pytest.raises(LengthMismatch, match="14 rows, which are not whole batches of 8"):
                list(batches)
