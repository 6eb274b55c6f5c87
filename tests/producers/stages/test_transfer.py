"""What a model returns is described, checked against the promise, and brought to the host as views."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tutelage.producers.stages.transfer import start_transfer
from tutelage.producers.wire_options import WireOptions
from tutelage.schemas.errors import DescriptionChanged, SchemaError
from tutelage.schemas.record import Column, Description, Ragged

PLAIN = WireOptions(dtypes="", encoded={}, ragged=frozenset())


def described(knowledge: Any, options: WireOptions = PLAIN) -> str:
    return str(start_transfer(knowledge, options).description)


def columns(
    knowledge: Any, options: WireOptions = PLAIN, promised: Description | None = None
) -> Any:
    return start_transfer(knowledge, options, promised).columns()


def test_a_description_follows_from_the_first_batch() -> None:
    knowledge = {
        "a": torch.zeros(2, 3),
        "b": np.zeros(2, np.int16),
        "c": [torch.zeros(1, 4), torch.zeros(3, 4)],
    }
    options = WireOptions(dtypes="", encoded={}, ragged=frozenset({"c"}))
    assert described(knowledge, options) == "'a': float32[3], 'b': int16[], 'c': float32[-1, 4]"


def test_host_tensors_are_viewed_not_copied() -> None:
    tensor, array = torch.zeros(4, 2), np.zeros((4, 2))
    found = columns({"t": tensor, "a": array})
    tensor += 1
    array += 1
    assert found["t"].sum() == found["a"].sum() == 8


def test_tensors_that_are_not_contiguous_arrive_as_they_look() -> None:
    tensor = torch.arange(6).reshape(2, 3).T
    assert columns({"t": tensor})["t"].tolist() == tensor.tolist()
    conjugated = torch.view_as_complex(torch.arange(4.0).reshape(2, 2)).conj()
    assert columns({"t": conjugated})["t"].tolist() == conjugated.tolist()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_ragged_rows_come_in_three_ways() -> None:
    rows = [torch.tensor([1, 2]), torch.tensor([3])]
    wanted = ([1, 2, 3], [2, 1])
    declared = WireOptions(dtypes="", encoded={}, ragged=frozenset({"r"}))
    assert columns({"r": rows}, declared)["r"].values.tolist() == wanted[0]
    ways: list[Any] = [
        Ragged(np.array([1, 2, 3]), np.array([2, 1])),
        torch.nested.nested_tensor(rows),
    ]
    ways.append(torch.nested.nested_tensor(rows, layout=torch.jagged))
    for way in ways:
        found = columns({"r": way})["r"]
        assert (found.values.tolist(), found.lengths.tolist()) == wanted


def test_a_declared_ragged_key_takes_padded_batches_of_any_width() -> None:
    options = WireOptions(dtypes="", encoded={}, ragged=frozenset({"r"}))
    batch = start_transfer({"r": torch.zeros(2, 3, 5)}, options)
    assert str(batch.description) == "'r': float32[-1, 5]"
    found = columns({"r": torch.zeros(1, 7, 5)}, options, batch.description)["r"]
    assert found.lengths.tolist() == [7]


@pytest.mark.parametrize("wire", ["float16", "bfloat16"])
def test_half_precision_on_the_wire_keeps_the_models_dtype_in_the_description(wire: str) -> None:
    for values in (torch.tensor([[1.5]]), np.array([[1.5]], np.float32)):
        batch = start_transfer(
            {"k": values, "i": torch.zeros(1, dtype=torch.int8)},
            WireOptions(dtypes=wire, encoded={}, ragged=frozenset()),
        )
        spec = batch.description["k"]
        assert (spec.dtype, spec.wire, batch.description["i"].wire) == ("float32", wire, "int8")
        found: Column = batch.columns()["k"]
        assert isinstance(found, np.ndarray)
        assert found.itemsize == 2
        assert float(found[0, 0]) == 1.5


def test_a_value_that_does_not_fit_half_precision_is_an_error_not_infinity() -> None:
    options = WireOptions(dtypes={"k": "float16"}, encoded={}, ragged=frozenset())
    for values in (torch.tensor([1e6]), np.array([1e6], np.float32)):
        with pytest.raises(SchemaError, match=r"'k'.*float16.*bfloat16"):
            columns({"k": values}, options)
    assert np.isinf(columns({"k": torch.tensor([float("inf")])}, options)["k"]).all()


@pytest.mark.parametrize(
    ("knowledge", "message"),
    [
        (torch.zeros(2), "must return a dict"),
        ({}, "empty dict"),
        ({"a": [1, 2]}, "'a' is a list"),
        ({"a": torch.tensor(1)}, "single number"),
        ({"a": torch.zeros(2), "b": torch.zeros(3)}, "'a' has 2, 'b' has 3"),
        ({"a": np.array(["x"])}, "cannot be carried"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "make it dense"),
    ],
)
def test_what_is_no_knowledge_is_refused_with_its_key(knowledge: Any, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        columns(knowledge)


@pytest.mark.parametrize(
    ("knowledge", "message"),
    [
        (
            {"a": torch.zeros(1, 2, dtype=torch.float64)},
            r"'a' was float32\[2\] and became float64\[2\]",
        ),
        ({"a": torch.zeros(1, 3)}, r"'a' was float32\[2\] and became float32\[3\].*ragged"),
        ({"a": torch.zeros(1, 2), "b": torch.zeros(1)}, "keys differ between batches"),
        ({"b": torch.zeros(1)}, "keys differ between batches"),
    ],
)
def test_a_batch_unlike_the_promise_is_refused(knowledge: Any, message: str) -> None:
    promised = start_transfer({"a": torch.zeros(1, 2)}, PLAIN).description
    with pytest.raises(DescriptionChanged, match=message):
        columns(knowledge, PLAIN, promised)


@pytest.mark.gpu
def test_a_tensor_on_a_gpu_arrives_in_pinned_memory_bit_for_bit() -> None:
    tensor = torch.randn(1000, 1000, device="cuda")
    stream = torch.cuda.Stream()
    batch = start_transfer({"k": tensor}, PLAIN, None, stream)
    assert np.array_equal(batch.columns()["k"], tensor.cpu().numpy())  # type: ignore[arg-type]
