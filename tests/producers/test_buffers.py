"""Memory that inputs or a model fill again and again: what is written is what a plain loop over the same inputs would see."""

from __future__ import annotations

from collections import UserDict, deque, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from support.teaching import read
from torch.utils.data import DataLoader, Dataset

from tutelage import MemorySink, MemoryTopic, Teacher, from_sample_lists, from_samples
from tutelage.producers.stages.model_outputs import Returned
from tutelage.producers.stages.ownership import CannotCopy, owned
from tutelage.schemas.errors import SchemaError

BATCHES = 400
Pair = namedtuple("Pair", "x label")


@dataclass(frozen=True, slots=True)
class Held:
    x: torch.Tensor


class Opaque:
    """An object whose content nobody can see."""

    def __init__(self) -> None:
        self.x = torch.zeros(2, dtype=torch.int64)


def written(model: Callable[[Any], Any], inputs: Any, **options: Any) -> list[int]:
    topic = MemoryTopic()
    with Teacher(MemorySink(topic), passes=options.pop("passes", 1)) as teacher:
        teacher.serve(model, inputs, **options)
    return read(topic)


def rotating(
    made: Callable[[int], Any], fill: Callable[[Any, int], Any], count: int
) -> Iterator[Any]:
    """Batches in `count` pieces of memory, one after the other and again."""
    memory = [made(index) for index in range(count)]
    for index in range(BATCHES):
        yield fill(memory[index % count], index)


def zeros(index: int) -> torch.Tensor:
    return torch.zeros(2, dtype=torch.int64)


def filled(buffer: torch.Tensor, index: int) -> torch.Tensor:
    return buffer.fill_(index)


def numpy_filled(buffer: Any, index: int) -> Any:
    buffer[:] = index
    return buffer


def list_filled(items: list[int], index: int) -> list[int]:
    items[:] = [index, index]
    return items


def dict_filled(items: dict[str, Any], index: int) -> dict[str, Any]:
    items["x"] = torch.full((2,), index)
    return items


EXPECTED = [index for index in range(BATCHES) for _ in range(2)]

FORMS: dict[str, tuple[Callable[[int], Any], Callable[[Any, int], Any], Callable[[Any], Any]]] = {
    "tensor": (zeros, filled, lambda batch: batch),
    "array": (lambda _: np.zeros(2, np.int64), numpy_filled, torch.from_numpy),
    "a tensor on an array": (
        lambda _: np.zeros(2, np.int64), lambda buffer, index: torch.from_numpy(numpy_filled(buffer, index)), lambda batch: batch,
    ),
    "view": (lambda _: torch.zeros(9, dtype=torch.int64), lambda buffer, index: filled(buffer, index)[3:5], lambda batch: batch),
    "dict of one tensor": (lambda _: {"x": zeros(0)}, lambda held, index: (filled(held["x"], index), held)[1], lambda batch: batch["x"]),
    "dict that changes": (lambda _: {}, dict_filled, lambda batch: batch["x"]),
    "list of numbers": (lambda _: [0, 0], list_filled, torch.tensor),
    "list in a tuple": (lambda _: [0, 0], lambda items, index: (list_filled(items, index), "text"), lambda batch: torch.tensor(batch[0])),
    "named tuple": (zeros, lambda buffer, index: Pair(filled(buffer, index), None), lambda batch: batch.x),
    "dataclass": (zeros, lambda buffer, index: Held(filled(buffer, index)), lambda batch: batch.x),
    "UserDict": (zeros, lambda buffer, index: UserDict(x=filled(buffer, index)), lambda batch: batch["x"]),
    "deque": (zeros, lambda buffer, index: deque([filled(buffer, index)]), lambda batch: batch[0]),
    "an object": (lambda _: Opaque(), lambda held, index: (filled(held.x, index), held)[1], lambda batch: batch.x),
}  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 7, 100])
@pytest.mark.parametrize("form", list(FORMS))
def test_inputs_that_fill_their_memory_again_are_read_as_in_a_plain_loop(
    form: str, count: int
) -> None:
    made, fill, model = FORMS[form]
    assert written(lambda batch: {"x": model(batch) + 0}, rotating(made, fill, count)) == EXPECTED


@pytest.mark.parametrize("form", list(FORMS))
def test_a_model_may_return_its_input_and_the_input_be_filled_again(form: str) -> None:
    made, fill, model = FORMS[form]
    assert written(lambda batch: {"x": model(batch)}, rotating(made, fill, 1)) == EXPECTED


@pytest.mark.parametrize("devices", [1, 3])
@pytest.mark.parametrize("size", [2, 60_000])
def test_sizes_devices_and_reading_in_the_calling_thread_change_nothing(
    size: int, devices: int
) -> None:
    def inputs() -> Iterator[torch.Tensor]:
        buffer = torch.zeros(4, size)
        for index in range(30):
            yield buffer.fill_(index)

    expected = [index for index in range(30) for _ in range(4)]
    for options in ({}, {"read_ahead": False}):
        found = written(
            lambda batch: {"x": batch[:, 0].long(), "all": batch},
            inputs(),
            devices=["cpu"] * devices,
            **options,
        )
        assert found == expected


def test_inputs_that_begin_to_fill_again_late_are_read_as_in_a_plain_loop() -> None:
    fresh = (torch.full((2,), index) for index in range(500))
    buffer = np.zeros(2, np.int64)
    late = (torch.from_numpy(numpy_filled(buffer, index)) for index in range(500, 900))
    assert written(lambda batch: {"x": batch}, chain(fresh, late)) == [
        index for index in range(900) for _ in range(2)
    ]


def test_a_batch_that_is_cleared_before_the_next_is_made_is_read_as_it_was() -> None:
    def inputs() -> Iterator[Any]:
        for index in range(BATCHES):
            batch: dict[str, Any] = {"x": torch.full((2,), index), "names": ["a", "b"]}
            yield batch
            batch["x"].zero_()
            batch["names"].clear()

    def model(batch: Any) -> dict[str, Any]:
        assert batch["names"] == ["a", "b"]
        return {"x": batch["x"]}

    assert written(model, inputs()) == EXPECTED


class Refilling(Dataset[Any]):
    """A data set of one buffer, whose items are batches."""

    def __init__(self) -> None:
        self._buffer = torch.zeros(2, dtype=torch.int64)

    def __len__(self) -> int:
        return BATCHES

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._buffer.fill_(index)


@pytest.mark.parametrize(
    "options", [{"batch_size": None}, {"batch_size": 1, "collate_fn": lambda samples: samples[0]}]
)
def test_a_loader_over_a_data_set_of_one_buffer_is_read_as_in_a_plain_loop(
    options: dict[str, Any],
) -> None:
    assert written(lambda batch: {"x": batch}, DataLoader(Refilling(), **options)) == EXPECTED


def test_samples_in_one_buffer_are_collated_as_they_were_given() -> None:
    def samples() -> Iterator[torch.Tensor]:
        buffer = torch.tensor(0)
        for index in range(50):
            yield buffer.fill_(index)

    def lists() -> Iterator[list[Any]]:
        items: list[str] = []
        for index in range(50):
            items[:] = [str(index)]
            yield items

    assert written(lambda batch: {"x": batch}, from_samples(samples, 4)) == list(range(50))
    assert written(
        lambda batch: {"x": torch.tensor([int(batch[0])])}, from_sample_lists(lists)
    ) == list(range(50))


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("size", [1, 70_000])
@pytest.mark.parametrize("on_numpy", [False, True])
def test_a_model_that_returns_one_memory_again_and_again_is_written_rightly(
    count: int, size: int, on_numpy: bool
) -> None:
    calls = iter(range(10_000))
    memory = [np.zeros((2, size), np.int64) for _ in range(count)]

    def model(batch: torch.Tensor) -> dict[str, Any]:
        array = memory[next(calls) % count]
        if on_numpy:
            array[:] = int(batch[0])
        else:
            torch.from_numpy(array).copy_(batch[:, None].expand(2, size))
        return {
            "x": torch.from_numpy(array)[:, 0],
            "all": torch.from_numpy(array),
        }

    batches = 400 if size == 1 else 12
    inputs = [torch.full((2,), index) for index in range(batches)]
    assert written(model, inputs) == [index for index in range(batches) for _ in range(2)]


def test_an_array_of_a_model_is_copied_whenever_it_is_filled_again() -> None:
    array = np.zeros(2, np.int64)

    def model(batch: torch.Tensor) -> dict[str, Any]:
        index = int(batch[0])
        return {"x": batch.numpy().copy() if index < 200 else numpy_filled(array, index)}

    inputs = [torch.full((2,), index) for index in range(BATCHES)]
    assert written(model, inputs) == EXPECTED


def test_memory_of_a_model_that_comes_back_late_while_it_is_in_use_is_an_error() -> None:
    buffer = torch.zeros(2, dtype=torch.int64)

    def model(batch: torch.Tensor) -> dict[str, Any]:
        return {"x": batch if int(batch[0]) < 200 else buffer.copy_(batch)}

    inputs = [torch.full((2,), index) for index in range(BATCHES)]
    with pytest.raises(SchemaError, match=r"key 'x'.*clone\(\)"):
        written(model, inputs)


def test_a_table_of_knowledge_may_be_returned_again_and_again_without_copies() -> None:
    table = [{"x": torch.full((2,), index)} for index in range(70)]
    assert written(lambda index: table[index % 70], range(BATCHES)) == [
        index % 70 for index in range(BATCHES) for _ in range(2)
    ]
    returned = Returned()
    for _ in range(3):
        for index in range(70):
            (found,) = returned.of_calls(iter([table[index]]), 1, owning=False)
    assert found["x"] is table[69]["x"]


def test_a_copy_has_the_batchs_classes_and_shares_no_memory_with_it() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    batch: dict[str, Any] = {
        "x": x,
        "wide": x[:1].expand(1000, 3),
        "leaf": x.clone().requires_grad_(),
        "words": ["a"],
        "n": np.arange(3),
        "pair": Pair(x, 1),
    }
    copied: Any = owned(batch)
    assert list(copied) == list(batch)
    assert copied["wide"].untyped_storage().nbytes() <= x.untyped_storage().nbytes()
    assert copied["leaf"].requires_grad and copied["leaf"].is_leaf
    assert type(copied["pair"]) is Pair
    for one, other in ((copied["x"], x), (copied["wide"], batch["wide"]), (copied["pair"].x, x)):
        assert torch.equal(one, other)
        assert one.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
    assert not np.shares_memory(copied["n"], batch["n"])
    assert copied["words"] is not batch["words"]
    for odd in (Opaque(), {"x": Opaque()}, [memoryview(b"a")], np.array([Opaque()], object)):
        with pytest.raises(CannotCopy):
            owned(odd)
