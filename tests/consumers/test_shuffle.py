"""Shuffled passes over files: each row once, in an order that a seed decides and nothing else."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.teaching import student_of, teach
from torch.utils.data import DataLoader

from tutelage import (
    ConfigurationError,
    FileSink,
    FileSource,
    LengthMismatch,
    MemoryTopic,
    RunMismatch,
    SampleMismatch,
    Shuffle,
    Student,
    Teacher,
)
from tutelage.consumers.shuffle import ShuffledOrder

SHUFFLE = Shuffle(seed=7, window_rows=16)


def order(rows: int, unit: int, shuffle: Shuffle = SHUFFLE, pass_index: int = 0) -> ShuffledOrder:
    return ShuffledOrder(shuffle, rows=rows, unit=unit, pass_index=pass_index)


@given(
    st.integers(1, 200),
    st.integers(1, 20),
    st.integers(1, 64),
    st.integers(0, 2**63 - 1),
    st.integers(1, 30),
)
def test_an_order_has_each_row_once_however_it_is_cut(
    rows: int, unit: int, window: int, seed: int, cut: int
) -> None:
    shuffled = order(rows, unit, Shuffle(seed=seed, window_rows=window))
    parts = [shuffled.rows(at, min(rows, at + cut)) for at in range(0, rows, cut)]
    assert [row for part in parts for row in part] == shuffled.rows(0, rows)
    assert sorted(shuffled.rows(0, rows)) == list(range(rows))


GOLDEN = [8, 11, 1, 3, 10, 0, 9, 2, 18, 19, 16, 13, 14, 12, 15, 17, 5, 7, 4, 6]


def test_the_order_of_a_seed_never_changes() -> None:
    # It is in checkpoints: another order would repeat and lose rows.
    assert order(20, 4, Shuffle(seed=7, window_rows=8)).rows(0, 20) == GOLDEN
    assert order(20, 4, Shuffle(seed=7, window_rows=8), 1).rows(0, 20) != GOLDEN
    assert order(20, 4, Shuffle(seed=8, window_rows=8)).rows(0, 20) != GOLDEN


def test_records_are_shuffled_and_rows_within_windows_of_whole_records() -> None:
    rows = order(400, 10, Shuffle(seed=1, window_rows=40)).rows(0, 400)
    for at in range(0, 400, 40):
        window = rows[at : at + 40]
        assert len({row // 10 for row in window}) == 4
        assert window != sorted(window)
    neighbours = sum(abs(one - other) <= 10 for one, other in pairwise(rows))
    assert neighbours < 200


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two teachers of two passes of 50 rows, in records of 4 and 8 rows."""
    folder = tmp_path_factory.mktemp("shuffle")
    paths = []
    for size in (4, 8):
        paths.append(folder / f"{size}.avro")
        with Teacher(
            FileSink(paths[-1]), name=f"t{size}", passes=2, rows_per_record=size
        ) as teacher:
            for index in range(2):
                ids = torch.arange(50) + 100 * index
                teacher.write({"id": ids, f"x{size}": ids.float() * size})
                teacher.end_pass()
    return paths


def student(files: list[Path], **options: Any) -> Student:
    made = Student(sample_id="id" if len(files) > 1 else None, **options)
    for path in files:
        made.register_teacher(FileSource(path))
    return made


def ids_of(batches: Any) -> list[list[int]]:
    return [batch["id"].tolist() for batch in batches]


def test_every_row_of_all_teachers_comes_once_and_each_pass_has_its_order(
    files: list[Path],
) -> None:
    with student(files) as shuffling:
        orders = []
        for index in range(2):
            batches = list(shuffling.knowledge(8, shuffle=SHUFFLE))
            assert [len(batch["id"]) for batch in batches] == [8] * 6 + [2]
            for batch in batches:
                assert torch.equal(batch["x4"], batch["id"] * 4.0)
                assert torch.equal(batch["x8"], batch["id"] * 8.0)
            orders.append([row - 100 * index for rows in ids_of(batches) for row in rows])
        assert sorted(orders[0]) == sorted(orders[1]) == list(range(50))
        assert orders[0] != orders[1]
        assert ids_of(shuffling.knowledge(8, shuffle=SHUFFLE))[0] == orders[0][:8]


@pytest.mark.parametrize("worlds", [(1, 2, 4), (4, 1, 2), (2, 2, 2)])
def test_any_number_of_ranks_goes_on_in_the_same_order(
    files: list[Path], worlds: tuple[int, ...]
) -> None:
    with student(files) as alone:
        expected = ids_of(alone.knowledge(8, shuffle=SHUFFLE))
    found: list[list[int]] = []
    state: Any = None
    for number, world in enumerate(worlds):
        parts = []
        for rank in range(world):
            with student(files, shard=(rank, world)) as one:
                if state is not None:
                    one.load_state_dict(state)
                batches = one.knowledge(global_batch_size=8, shuffle=SHUFFLE)
                last = number == len(worlds) - 1
                parts.append(ids_of(batches if last else [next(batches), next(batches)]))
                saved = json.loads(json.dumps(one.state_dict()))
                batches.close()
        state = saved
        found += [[row for part in step for row in part] for step in zip(*parts, strict=True)]
    assert found == expected


def test_behind_every_batch_the_rest_follows_and_the_last_short_one_can_be_dropped(
    files: list[Path],
) -> None:
    options: dict[str, Any] = {"shuffle": SHUFFLE, "drop_last": True, "position_key": "at"}
    with student(files) as shuffling:
        batches = list(shuffling.knowledge(8, **options))
        assert len(batches) == 6
        for index, batch in enumerate(batches):
            state = shuffling.state_dict(at=batch["at"])
            with student(files) as again:
                again.load_state_dict(state)
                assert ids_of(again.knowledge(8, **options)) == ids_of(batches[index + 1 :])


@pytest.mark.parametrize(
    ("saved", "asked", "said"),
    [
        (SHUFFLE, None, r"shuffle was \[7, 16\], is \[\]"),
        (None, SHUFFLE, r"shuffle was \[\], is \[7, 16\]"),
        (SHUFFLE, Shuffle(seed=8, window_rows=16), r"shuffle was \[7, 16\], is \[8, 16\]"),
    ],
)
def test_a_state_of_another_order_is_refused(
    files: list[Path], saved: Any, asked: Any, said: str
) -> None:
    with student(files[:1]) as first:
        batches = first.knowledge(8, shuffle=saved)
        next(batches)
        state = first.state_dict()
        batches.close()
    with student(files[:1]) as second:
        second.load_state_dict(state)
        with pytest.raises(RunMismatch, match=said):
            second.knowledge(8, shuffle=asked)


def test_a_topic_is_not_shuffled(topic: MemoryTopic) -> None:
    with (
        student_of(topic) as learning,
        pytest.raises(ConfigurationError, match="is read in order, and cannot be shuffled"),
    ):
        learning.knowledge(4, shuffle=SHUFFLE)


@pytest.mark.parametrize("wrong", [7, {"seed": 7}, "7"])
def test_what_is_no_shuffle_is_refused(files: list[Path], wrong: Any) -> None:
    with student(files) as shuffling, pytest.raises(ConfigurationError, match="must be Shuffle"):
        shuffling.knowledge(4, shuffle=wrong)
    for options in ({"seed": -1}, {"seed": 1.5}, {"seed": 1, "window_rows": 0}):
        with pytest.raises(ConfigurationError, match="seed|window_rows"):
            Shuffle(**options)


def test_a_loader_shuffles_without_workers_and_says_so_with_them(files: list[Path]) -> None:
    with student(files) as shuffling:
        data = shuffling.dataset(8, shuffle=SHUFFLE)
        assert len(data) == 7 == len(list(DataLoader(data, batch_size=None)))
        with pytest.raises(ConfigurationError, match="use num_workers=0"):
            list(DataLoader(data, batch_size=None, num_workers=1))


def test_each_epoch_of_a_loader_has_an_order_of_its_own_and_is_resumed_in_it(
    files: list[Path],
) -> None:
    with student(files) as shuffling:
        data = shuffling.dataset(8, shuffle=SHUFFLE, position_key="at")
        orders = []
        for epoch in range(4):
            data.set_epoch(epoch)
            batches = list(data)
            orders.append(ids_of(batches))
        assert len({str(order) for order in orders}) == 4
        state = shuffling.state_dict(at=batches[2]["at"])
    with student(files) as again:
        again.load_state_dict(state)
        data = again.dataset(8, shuffle=SHUFFLE)
        data.set_epoch(3)
        assert ids_of(data) == orders[3][3:]


def test_teachers_of_other_lengths_or_rows_are_refused_with_the_row_of_the_pass(
    files: list[Path], tmp_path: Path
) -> None:
    teach(FileSink(tmp_path / "short.avro"), 20)
    with student([tmp_path / "short.avro"]) as alone:
        assert alone.description
    with Teacher(FileSink(tmp_path / "other.avro"), name="other", passes=2) as teacher:
        for rows in (50, 49):
            ids = torch.arange(rows)
            teacher.write({"id": ids.where(ids != 33, 99), "y": ids})
            teacher.end_pass()
    with student([files[0], tmp_path / "other.avro"]) as shuffling:
        with pytest.raises(SampleMismatch, match="^row 33: 'id' is 33 of t4 but 99 of other"):
            list(shuffling.knowledge(8, shuffle=SHUFFLE))
        with pytest.raises(LengthMismatch, match="4.avro has 50 rows, .*other.avro has 49 rows"):
            list(shuffling.knowledge(8, shuffle=SHUFFLE, pass_index=1))
