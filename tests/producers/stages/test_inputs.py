"""Whatever users have becomes batches, pass by pass."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from tutelage.producers.stages.inputs import Inputs
from tutelage.producers.stages.read_ahead import ReadAhead
from tutelage.producers.stages.row_counts import rows_in
from tutelage.producers.stages.samples import from_sample_lists, from_samples
from tutelage.producers.stages.worker import Worker
from tutelage.schemas.errors import ConfigurationError


def tensors(batches: Iterator[Any]) -> list[list[int]]:
    return [torch.as_tensor(batch).flatten().tolist() for batch in batches]


def test_an_array_is_cut_into_batches_again_and_again() -> None:
    for array in (np.arange(5), torch.arange(5)):
        inputs = Inputs(array, batch_size=2, passes=2)
        for _ in range(2):
            assert tensors(inputs.one_pass()) == [[0, 1], [2, 3], [4]]


def test_loaders_lists_and_functions_begin_anew_each_pass() -> None:
    loader = DataLoader(TensorDataset(torch.arange(4)), batch_size=2)
    assert [len(list(Inputs(loader, passes=2).one_pass())) for _ in range(2)] == [2, 2]
    inputs = Inputs(lambda: iter([1, 2]), passes=2)
    assert [list(inputs.one_pass()) for _ in range(2)] == [[1, 2], [1, 2]]


def test_samples_and_sample_lists_are_collated() -> None:
    assert tensors(from_samples(lambda: iter(range(5)), 2)()) == [[0, 1], [2, 3], [4]]
    assert tensors(from_samples(lambda: iter(range(5)), 2, drop_last=True)()) == [[0, 1], [2, 3]]
    assert tensors(from_sample_lists(lambda: iter([[1, 2], [3]]))()) == [[1, 2], [3]]


@pytest.mark.parametrize(
    ("inputs", "arguments", "message"),
    [
        (np.arange(3), {}, "needs a batch_size"),
        ([1], {"batch_size": 2}, "batch_size is for arrays"),
        (np.arange(3), {"batch_size": 0}, "at least 1"),
        (7, {}, "inputs is a int"),
        (iter([1]), {"passes": 2}, "read once"),
    ],
)
def test_inputs_that_cannot_work_are_refused_at_once(
    inputs: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Inputs(inputs, **arguments)


@pytest.mark.parametrize(
    ("batch", "rows"),
    [
        (torch.zeros(3, 2), 3),
        (np.zeros((2, 1)), 2),
        ({"a": torch.zeros(4), "b": [torch.zeros(4, 1)]}, 4),
        ((torch.zeros(3), torch.zeros(2)), None),
        (["a text", "another"], 2),
        ([torch.zeros(5), torch.zeros(5, 2)], 5),
        (object(), None),
        (torch.tensor(1), None),
        ([], None),
    ],
)
def test_rows_are_counted_where_they_can_be_seen(batch: Any, rows: int | None) -> None:
    assert rows_in(batch) == rows


@pytest.fixture
def thread() -> Iterator[Worker]:
    """The thread that reads."""
    worker = Worker("test-inputs")
    yield worker
    worker.close()


def test_reading_ahead_keeps_the_order_in_groups_of_any_size(thread: Worker) -> None:
    reader = ReadAhead(iter(range(10)), thread=thread)
    found: list[int] = []
    sizes = iter([1, 3, 2, 100])
    while (group := reader.next_group()) is not None:
        group.result(10)
        found += reader.take()
        reader.group_size = next(sizes, 2)
    reader.close()
    assert found == list(range(10))


def test_an_error_in_the_inputs_comes_out_where_it_happened(thread: Worker) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    reader = ReadAhead(broken(), thread=thread)
    first = reader.next_group()
    assert first is not None
    first.result(10)
    assert reader.take() == [1]
    second = reader.next_group()
    assert second is not None
    with pytest.raises(OSError, match="the disk is gone"):
        second.result(10)
    reader.close()


def test_inputs_that_come_slowly_do_not_wait_for_each_other(thread: Worker) -> None:
    def slow() -> Iterator[int]:
        for index in range(4):
            time.sleep(0.01)
            yield index

    reader = ReadAhead(slow(), thread=thread)
    reader.group_size = 256
    groups = []
    while (future := reader.next_group()) is not None:
        future.result(10)
        groups.append(reader.take())
    reader.close()
    assert groups == [[0], [1], [2], [3], []] or groups == [[0], [1], [2], [3]]


def test_what_was_read_before_a_pause_does_not_wait_for_what_comes_after_it(thread: Worker) -> None:
    more = threading.Event()

    def bursts() -> Iterator[int]:
        yield from range(3)
        more.wait(20)
        yield from range(3, 6)

    reader = ReadAhead(bursts(), thread=thread)
    reader.group_size = 256
    found: list[int] = []
    future = reader.next_group()
    deadline = time.monotonic() + 20
    while len(found) < 3 and time.monotonic() < deadline:
        assert future is not None
        found += reader.take() if future.done() else reader.take_part()
        future = reader.next_group()
        time.sleep(0.001)
    assert found == [0, 1, 2]
    more.set()
    while (future := reader.next_group()) is not None:
        future.result(10)
        found += reader.take()
    reader.close()
    assert found == list(range(6))


@settings(max_examples=25)
@given(st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.002]), max_size=60), st.integers(0, 1 << 30))
def test_parts_and_groups_together_keep_the_order(pauses: list[float], seed: int) -> None:
    def inputs() -> Iterator[int]:
        for index, pause in enumerate(pauses):
            time.sleep(pause)
            yield index

    # Drawn by ourselves: how often depends on the threads.
    random = Random(seed)
    worker = Worker("test-inputs")
    reader = ReadAhead(inputs(), thread=worker)
    found: list[int] = []
    while (future := reader.next_group()) is not None:
        reader.group_size = random.choice([1, 2, 7, 256])
        if future.done():
            found += reader.take()
        elif random.random() < 0.7:
            found += reader.take_part()
        else:
            time.sleep(0.0003)
    reader.close()
    worker.close()
    assert found == list(range(len(pauses)))
