"""A run of several passes that was interrupted goes on with the inputs of the pass that is continued."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.teaching import Stopped
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    TensorDataset,
)

from tutelage import FileSink, FileSource, Student, Teacher

ROWS, PASSES = 20, 3


def shuffled() -> Any:
    """A loader that shuffles from a seed, anew in each pass."""
    return DataLoader(
        TensorDataset(torch.arange(ROWS)),
        batch_size=3,
        shuffle=True,
        generator=torch.Generator().manual_seed(7),
    )


class Counting:
    """Inputs that count their epochs themselves."""

    def __init__(self) -> None:
        self.epoch = 0

    def __iter__(self) -> Iterator[Any]:
        self.epoch += 1
        for start in range(0, ROWS, 4):
            yield [torch.arange(start, min(ROWS, start + 4)) + 1000 * self.epoch]


def outside_state() -> Any:
    """A generator function over a random generator that lives outside it."""
    random = np.random.default_rng(3)

    def inputs() -> Iterator[Any]:
        for rows in torch.from_numpy(random.permutation(ROWS)).split(3):
            yield [rows]

    return inputs


class EpochSampler(Sampler[int]):
    """A sampler whose order is made of the epoch it is told, as `DistributedSampler` is."""

    def __init__(self) -> None:
        self.epoch = -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng(self.epoch).permutation(ROWS).tolist())

    def __len__(self) -> int:
        return ROWS


class EpochData(IterableDataset[Any]):
    """A data set that is told the epoch, as those of Hugging Face are."""

    epoch = -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(range(100 * self.epoch, 100 * self.epoch + ROWS))


class EpochLoader(Counting):
    """A loader that is told the epoch itself."""

    def set_epoch(self, epoch: int) -> None:
        self.epoch = 10 * epoch


def in_batches(sampler: Any) -> Any:
    return DataLoader(
        TensorDataset(torch.arange(ROWS)), batch_sampler=BatchSampler(sampler, 4, False)
    )


INPUTS: dict[str, Callable[[], Any]] = {
    "a loader that shuffles": shuffled,
    "a function that returns one loader": lambda: (lambda loader: lambda: loader)(shuffled()),
    "inputs that count epochs": Counting,
    "a generator function with state outside": outside_state,
    "a sampler with set_epoch": lambda: DataLoader(
        TensorDataset(torch.arange(ROWS)), batch_size=3, sampler=EpochSampler()
    ),
    "a batch sampler of one with set_epoch": lambda: in_batches(EpochSampler()),
    "a batch sampler that shuffles": lambda: in_batches(
        RandomSampler(range(ROWS), generator=torch.Generator().manual_seed(1))
    ),
    "a data set with set_epoch": lambda: DataLoader(EpochData(), batch_size=3),
    "a loader with set_epoch": EpochLoader,
    "a list": lambda: [[rows] for rows in torch.arange(ROWS).split(3)],
}


def model_that_stops(after: int | None) -> Any:
    left = -1 if after is None else after

    def model(batch: Any) -> dict[str, Any]:
        nonlocal left
        if left == 0:
            raise Stopped
        left -= 1
        return {"x": batch[0] if isinstance(batch, list) else batch}

    return model


def teach(path: Path, inputs: Any, *, after: int | None = None) -> None:
    with Teacher(FileSink(path), passes=PASSES, rows_per_record=2) as teacher:
        teacher.serve(model_that_stops(after), inputs)


def passes_of(path: Path) -> list[list[int]]:
    student = Student()
    student.register_teacher(FileSource(path))
    with student:
        return [
            [int(x) for batch in student.knowledge(64) for x in batch["x"]] for _ in range(PASSES)
        ]


@pytest.mark.parametrize("stops", [[10], [4], [13], [9, 9]])
@pytest.mark.parametrize("kind", list(INPUTS))
def test_a_run_continued_in_a_later_pass_is_the_uninterrupted_run(
    kind: str, stops: list[int], tmp_path: Path
) -> None:
    teach(tmp_path / "whole.avro", INPUTS[kind]())
    for after in stops:
        with pytest.raises(Stopped):
            teach(tmp_path / "continued.avro", INPUTS[kind](), after=after)
    teach(tmp_path / "continued.avro", INPUTS[kind]())
    whole = passes_of(tmp_path / "whole.avro")
    assert passes_of(tmp_path / "continued.avro") == whole
    if kind != "a list":
        assert whole[0] != whole[1]


def test_the_model_is_not_called_for_finished_passes_and_the_log_says_what_is_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Stopped):
        teach(tmp_path / "a.avro", shuffled(), after=10)
    calls: list[Any] = []

    def model(batch: Any) -> dict[str, Any]:
        calls.append(batch)
        return {"x": batch[0]}

    with (
        caplog.at_level(logging.INFO),
        Teacher(FileSink(tmp_path / "a.avro"), passes=PASSES, rows_per_record=2) as teacher,
    ):
        teacher.serve(model, shuffled())
    assert len(calls) <= 2 * 7
    assert "reading through pass 0, which is written, to come to pass 1" in caplog.text


def test_one_pass_leaves_the_epoch_that_the_caller_set() -> None:
    from tutelage import MemorySink, MemoryTopic

    sampler = EpochSampler()
    sampler.set_epoch(5)
    with Teacher(MemorySink(MemoryTopic())) as teacher:
        teacher.serve(model_that_stops(None), in_batches(sampler))
    assert sampler.epoch == 5


def test_inputs_that_fail_while_finished_passes_are_read_raise_what_they_raised(
    tmp_path: Path,
) -> None:
    with pytest.raises(Stopped):
        teach(tmp_path / "a.avro", shuffled(), after=10)

    def broken() -> Iterator[Any]:
        yield [torch.arange(3)]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        teach(tmp_path / "a.avro", broken)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"wire": "float16"}, {}, "'y' travels as float16 there, as float32 here"),
        ({}, {"wire": {"y": "bfloat16"}}, "'y' travels as float32 there, as bfloat16 here"),
        (
            {"wire": "float16"},
            {"wire": "bfloat16"},
            "'y' travels as float16 there, as bfloat16 here",
        ),
        ({}, {"ragged_keys": ["y"]}, "'y' is not ragged there"),
        ({}, {"wire": {"z": "float16"}}, r"names \['z'\]"),
        ({}, {"ragged_keys": ["z"]}, r"names \['z'\]"),
    ],
)
@pytest.mark.parametrize("by_hand", [False, True])
def test_a_run_is_not_continued_with_other_options(
    first: dict[str, Any], second: dict[str, Any], message: str, by_hand: bool, tmp_path: Path
) -> None:
    from tutelage.schemas.container_writer import partial_path
    from tutelage.schemas.errors import SinkExists

    path = tmp_path / "a.avro"

    def write(after: int | None, **options: Any) -> None:
        stops = model_that_stops(after)
        with Teacher(FileSink(path), rows_per_record=2, **options) as teacher:
            batches = [rows[:, None] for rows in torch.arange(20.0).split(2)]
            if by_hand:
                for rows in batches:
                    teacher.write({"y": stops(rows)["x"]})
            else:
                teacher.serve(lambda batch: {"y": stops(batch)["x"]}, batches)

    with pytest.raises(Stopped):
        write(5, **first)
    before = partial_path(path).read_bytes()
    with pytest.raises(SinkExists, match=message):
        write(None, **second)
    assert partial_path(path).read_bytes() == before
    write(None, **first)
    assert path.exists()
