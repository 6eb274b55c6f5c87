"""Programs of several ranks get the batches of one rank, each row once, whatever is killed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tutelage import (
    ConfigurationError,
    FileSink,
    FileSource,
    LengthMismatch,
    MemorySink,
    MemorySource,
    MemoryTopic,
    RaggedFormat,
    RunMismatch,
    SampleMismatch,
    Source,
    SparseTarget,
    Student,
    Teacher,
)
from tutelage.consumers.metrics import StudentMetrics

from .conftest import Rank, Sources, ranks_of, write_rows

Topics = Callable[..., Sources]
Row = tuple[Any, ...]
relaxed = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def rows_of(batch: dict[str, Any]) -> dict[int, Row]:
    """The rows of a batch by their id, each with all its values."""
    target = batch["logits"]
    assert isinstance(target, SparseTarget)
    dense = target.dense().reshape(len(batch["id"]), 2 * 11)
    xs = sorted(key for key in batch if key.startswith("x-"))
    return {
        int(row): (
            *(batch[key][at].tolist() for key in xs),
            batch["text"][at, : batch["text.lengths"][at]].tolist(),
            dense[at].tolist(),
        )
        for at, row in enumerate(batch["id"])
    }


def steps_of(ranks: list[Rank], steps: int | None = None) -> list[dict[int, Row]]:
    """The rows of each global batch, for so many steps or to the end of the pass."""
    found: list[dict[int, Row]] = []
    while steps is None or len(found) < steps:
        batches = [next(rank.batches, None) for rank in ranks]
        if None in batches:
            assert batches == [None] * len(ranks), "ranks differ in their number of batches"
            break
        parts = [rows_of(batch) for batch in batches if batch is not None]
        found.append({row: values for part in parts for row, values in part.items()})
        assert len(found[-1]) == sum(map(len, parts)), "a row was given to two ranks"
    return found


@relaxed
@given(
    world=st.sampled_from([2, 3, 4, 8]),
    share=st.sampled_from([1, 2, 3, 4, 8]),
    rows=st.integers(1, 70),
    teachers=st.lists(
        st.tuples(st.sampled_from([1, 2, 3, 4, 8, 30]), st.integers(1, 5)), min_size=1, max_size=2
    ),
    passes=st.integers(1, 2),
)
def test_all_ranks_together_get_the_batches_of_one(
    topics: Topics,
    world: int,
    share: int,
    rows: int,
    teachers: list[tuple[int, int]],
    passes: int,
) -> None:
    sources, size = topics(rows, *teachers, passes=passes), world * share
    with (
        ranks_of(sources, 1, global_batch_size=size) as alone,
        ranks_of(sources, world, global_batch_size=size) as ranks,
    ):
        for index in range(passes):
            expected = steps_of(alone)
            assert steps_of(ranks) == expected
            assert [sorted(step) for step in expected] == [
                [row + 1000 * index for row in range(first, min(rows, first + size))]
                for first in range(0, rows, size)
            ]
            for rank in (*alone, *ranks):
                rank.begin()


@relaxed
@given(data=st.data(), rows=st.integers(1, 300), source=st.sampled_from(["topics", "files"]))
def test_kills_and_other_numbers_of_ranks_neither_repeat_nor_lose_a_row(
    topics: Topics,
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    rows: int,
    source: str,
) -> None:
    made = {
        "topics": lambda: topics(rows, (4, 6), (8, 5), passes=2),
        "files": lambda: files(tmp_path_factory.mktemp("files"), rows),
    }
    sources, size = made[source](), 24
    with ranks_of(sources, 1, global_batch_size=size) as alone:
        expected = [steps_of(alone)]
        alone[0].begin()
        expected.append(steps_of(alone))
    state: Any = None
    found: list[list[dict[int, Row]]] = [[], []]
    for world in (1, 4, 2, 8, 3):
        with ranks_of(sources, world, state=state, global_batch_size=size) as ranks:
            index = ranks[0].student.state_dict()["pass_index"]
            steps = data.draw(st.integers(0, 6), label=f"steps of {world} ranks")
            given_ = steps_of(ranks, steps)
            found[index] += given_
            states = [rank.student.state_dict() for rank in ranks]
            if len(given_) < steps and index == 0:
                for rank in ranks:
                    rank.begin()
                found[1] += steps_of(ranks, steps - len(given_))
                states = [rank.student.state_dict() for rank in ranks]
            if world > 1:
                assert all(other == states[0] for other in states)
            state = json.loads(json.dumps(states[0]))
        if state["pass_index"] == 2:
            # Behind the last pass, the first one would begin again.
            break
    with ranks_of(sources, 1, state=state, global_batch_size=size) as alone:
        for index in range(state["pass_index"], 2):
            found[index] += steps_of(alone)
            if index == 0:
                alone[0].begin()
    assert found == expected


def files(folder: Path, rows: int, codec: Any = "null") -> Sources:
    """Files of two teachers."""
    paths = []
    for number, size in enumerate((4, 8)):
        paths.append(folder / f"{number}-{codec}.avro")
        write_rows(
            FileSink(paths[-1], codec=codec),
            rows,
            name=f"teacher{number}",
            rows_per_record=size,
            passes=2,
        )
    return lambda: [FileSource(path) for path in paths]


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_files_and_topics_give_the_ranks_the_same(
    topics: Topics, tmp_path: Path, codec: str
) -> None:
    offline, online = files(tmp_path, 53, codec), topics(53, (4, 3), (8, 2), passes=2)

    def mixed() -> list[Source]:
        return [offline()[0], online()[1]]

    found = []
    for sources in (offline, online, mixed):
        with ranks_of(sources, 2, global_batch_size=16) as ranks:
            found.append(steps_of(ranks))
    assert found[0] == found[1] == found[2]


def test_a_state_of_a_student_without_shards_goes_on_with_shards_and_back(topics: Topics) -> None:
    sources = topics(40, (4, 3))
    with ranks_of(sources, 1, global_batch_size=8) as alone:
        expected = steps_of(alone)
    student = Student()
    student.register_teacher(sources()[0])
    with student:
        batches = student.knowledge(8)
        next(batches)
        state = student.state_dict()
        batches.close()
    with ranks_of(sources, 2, state=state, global_batch_size=8) as ranks:
        assert steps_of(ranks, 2) == expected[1:3]
        state = ranks[1].student.state_dict()
    student = Student()
    student.register_teacher(sources()[0])
    with student:
        student.load_state_dict(state)
        assert [rows_of(batch) for batch in student.knowledge(8)] == expected[3:]


@pytest.mark.parametrize("rows", range(17, 26))
@pytest.mark.parametrize("drop_last", [False, True])
def test_every_end_is_even_and_weights_make_the_mean_over_the_whole_batch(
    topics: Topics, rows: int, drop_last: bool
) -> None:
    sources, world = topics(rows, (2, 3)), 4
    with ranks_of(
        sources, world, global_batch_size=8, pad_empty=True, drop_last=drop_last
    ) as ranks:
        steps = list(zip(*(list(rank.batches) for rank in ranks), strict=True))
    assert len(steps) == (rows // 8 if drop_last else -(-rows // 8))
    for step, batches in enumerate(steps):
        first, stop = 8 * step, min(rows, 8 * step + 8)
        losses = [(batch["weight"] * batch["x-teacher0"][:, 0]).sum() for batch in batches]
        mean = sum(range(first, stop)) / (stop - first)
        assert float(sum(losses) / world) == pytest.approx(mean)
        assert all(len(batch["id"]) >= 1 for batch in batches)
        assert {tuple(batch["position"].tolist()) for batch in batches} == {(0, step + 1, stop, 8)}


@pytest.mark.parametrize("padded", [True, False])
def test_a_batch_without_rows_has_all_keys_and_one_that_is_padded_has_one_row(
    topics: Topics, padded: bool
) -> None:
    sources = topics(4, (4, 1))
    options = {"ragged_format": RaggedFormat(padded=padded)}
    with (
        ranks_of(sources, 2, global_batch_size=8, options=options) as plain,
        ranks_of(sources, 2, global_batch_size=8, options=options, pad_empty=True) as padding,
    ):
        whole, empty = (next(rank.batches) for rank in plain)
        _, row = (next(rank.batches) for rank in padding)
    assert list(whole) == list(empty) == list(row)
    assert empty["x-teacher0"].shape == (0, 3) and row["x-teacher0"].tolist() == [[0.0] * 3]
    assert empty["text.lengths"].tolist() == [] and row["text.lengths"].tolist() == [0]
    assert row["text"].shape == ((1, 1) if padded else (0,))
    for key, value in whole.items():
        for other in (empty[key], row[key]):
            if isinstance(other, torch.Tensor):
                assert (other.dtype, other.dim()) == (value.dtype, value.dim()), key
    assert len(empty["logits"]) == 0 and len(row["logits"]) == 1
    assert row["logits"].dense().sum(-1).tolist() == [1.0, 1.0]
    assert row["weight"].tolist() == [0.0] and empty["weight"].tolist() == []


def test_teachers_of_other_lengths_are_refused_on_every_rank_or_end_at_the_shortest(
    topics: Topics,
) -> None:
    # Of 20 and 22 rows, rank 0 has equally many of both.
    shorter, longer = topics(20, (2, 2)), topics(22, (2, 2), (2, 3))

    def sources() -> list[Source]:
        return [shorter()[0], longer()[1]]

    said = []
    with ranks_of(sources, 2, global_batch_size=8) as ranks:
        for rank in ranks:
            with pytest.raises(LengthMismatch) as caught:
                list(rank.batches)
            said.append(str(caught.value))
    assert said[0] == said[1]
    assert "teacher0 has 20 rows, teacher1 has 22 rows" in said[0]
    truncate = {"on_length_mismatch": "truncate"}
    with ranks_of(sources, 2, global_batch_size=8, options=truncate) as ranks:
        assert [sorted(step) for step in steps_of(ranks)] == [
            list(range(8)), list(range(8, 16)), list(range(16, 20))
        ]  # fmt: skip


def test_an_error_names_the_row_of_the_pass_not_of_the_rank() -> None:
    student = Student(sample_id="id", shard=(1, 2))
    ids = torch.arange(16)
    for name, changed in (("a", 14), ("b", 99)):
        topic = MemoryTopic(name=name)
        with Teacher(MemorySink(topic), name=name, rows_per_record=2) as teacher:
            teacher.write({"id": ids.where(ids != 14, changed)})
        student.register_teacher(MemorySource(topic))
    with student, pytest.raises(SampleMismatch, match="^row 14: 'id' is 14 of a but 99 of b"):
        list(student.knowledge(global_batch_size=4))


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (
            {"global_batch_size": 9},
            "which 2 ranks cannot share; it must be a multiple of 2, such as 10",
        ),
        ({}, "give batch_size, the rows of a batch of one rank, or global_batch_size"),
        ({"batch_size": 4, "global_batch_size": 8}, "give batch_size, the rows of a batch of one"),
        ({"batch_size": 4, "pad_empty": True}, "ask for weight_key too"),
        ({"batch_size": 4, "weight_key": "w", "position_key": "w"}, "are both 'w'"),
        ({"batch_size": 4, "weight_key": "id"}, "a teacher has a key 'id' already"),
        ({"batch_size": 4, "position_key": "text.lengths"}, "a teacher has a key 'text.lengths'"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_at_the_call(
    topics: Topics, request_: dict[str, Any], said: str
) -> None:
    student = Student(shard=(0, 2))
    student.register_teacher(topics(8, (2, 1))()[0])
    with student, pytest.raises(ConfigurationError, match=re.escape(said)):
        student.knowledge(**request_)


def test_another_batch_size_than_that_of_the_state_is_refused(topics: Topics) -> None:
    sources = topics(40, (4, 3))
    with ranks_of(sources, 2, global_batch_size=8) as ranks:
        steps_of(ranks, 2)
        state = ranks[0].student.state_dict()
    student = Student(shard=(0, 4))
    student.register_teacher(sources()[0])
    student.load_state_dict(state)
    with student:
        with pytest.raises(RunMismatch, match="batch_size was 8, is 16"):
            student.knowledge(global_batch_size=16)
        assert student.knowledge(2)


def test_a_rank_says_once_that_it_reads_more_than_its_share(
    topics: Topics, caplog: pytest.LogCaptureFixture
) -> None:
    for partitions, said in ((8, 0), (6, 1)):
        caplog.clear()
        with ranks_of(topics(40, (4, partitions), passes=2), 4, global_batch_size=16) as ranks:
            for _ in range(2):
                steps_of(ranks)
                for rank in ranks:
                    rank.begin()
            (stats,) = ranks[1].student.stream_stats
        of_rank = [
            line for line in caplog.messages if line.startswith("rank 1 of 4 reads 2.0 times")
        ]
        assert len(of_rank) == said
        assert stats.read_amplification == (2.0 if said else 1.0)


def test_metrics_of_a_rank_are_of_the_partitions_it_reads(topics: Topics) -> None:
    with ranks_of(topics(40, (4, 4)), 2, global_batch_size=8) as ranks:
        steps_of(ranks)
        found = {
            metric.name: metric.samples for metric in StudentMetrics(ranks[1].student).collect()
        }
    assert {sample.labels["partition"] for sample in found["tutelage_consumer_rows"]} == {"1", "3"}
    assert [each.value for each in found["tutelage_consumer_read_amplification"]] == [1.0]
    assert [each.value for each in found["tutelage_consumer_delivered_rows"]] == [40]


def test_a_merge_function_is_not_called_for_a_batch_without_rows(topics: Topics) -> None:
    sources = topics(9, (2, 2), (2, 3))

    def largest(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        assert float(tensors[0].abs().max()) >= 0
        return tensors[0]

    for rank in (0, 1):
        student = Student({"id": largest, "text": "first", "logits": "first"}, shard=(rank, 2))
        for source in sources():
            student.register_teacher(source)
        with student:
            lengths = [len(batch["id"]) for batch in student.knowledge(4)]
        assert lengths == [4, 1 - rank]


def test_a_spawned_worker_knows_the_rank_that_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.avro"
    with Teacher(FileSink(path), rows_per_record=2) as teacher:
        teacher.write({"x": torch.arange(8)})
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    student = Student(shard="auto")
    student.register_teacher(FileSource(path))
    # What a worker gets.
    there = copy(student)
    # A process group is not in the environment of a spawned worker.
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    with there:
        assert [batch["x"].tolist() for batch in there.knowledge(global_batch_size=4)] == [
            [2, 3],
            [6, 7],
        ]


@pytest.mark.parametrize("world", [2, 4])
def test_a_rank_gives_a_batch_as_soon_as_its_next_record_is_there(world: int) -> None:
    topic, size = MemoryTopic(name="t", partitions=world), 16 * world
    with Teacher(MemorySink(topic), rows_per_record=4) as teacher:
        teacher.write({"x": torch.arange(size)})
        with ranks_of(lambda: [MemorySource(topic)], world, global_batch_size=size) as ranks:
            # The last rank has the last rows of a batch, so it knows that the batch is whole.
            assert len(next(ranks[-1].batches)["x"]) == 16
            # The records of the next batch, one for each of the others.
            teacher.write({"x": torch.arange(4 * (world - 1))})
            for rank in ranks[:-1]:
                assert len(next(rank.batches)["x"]) == 16
