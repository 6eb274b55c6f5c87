"""Everything torch and numpy call a tensor is carried rightly or refused by name."""

from __future__ import annotations

import collections
import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.teaching import student_of
from torch._subclasses.fake_tensor import FakeTensorMode

from tutelage import MemorySink, MemoryTopic, Teacher
from tutelage.producers.stages.transfer import start_transfer, start_transfers
from tutelage.producers.wire_options import WireOptions
from tutelage.schemas.errors import DescriptionChanged, SchemaError
from tutelage.schemas.record import Ragged

PLAIN = WireOptions(dtypes="", encoded={}, ragged=frozenset())
DECLARED = WireOptions(dtypes="", encoded={}, ragged=frozenset({"k"}))


def arrived(value: Any, options: WireOptions = PLAIN, promised: Any = None) -> Any:
    return start_transfer({"k": value}, options, promised).columns()["k"]


class Mine(torch.Tensor):
    """A subclass that only adds methods."""


class OtherArray(np.ndarray[Any, Any]):
    """An array of a class of the user's."""


def fake() -> torch.Tensor:
    with FakeTensorMode():
        return torch.zeros(2, 3)


def freed() -> torch.Tensor:
    tensor = torch.zeros(2, 3)
    tensor.untyped_storage().resize_(0)
    return tensor


class Wrapper(torch.Tensor):
    """A tensor of a class that keeps its values in its own way, as quantized and distributed ones do."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Wrapper:
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's own gap
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise NotImplementedError


REFUSED: dict[str, tuple[Any, str]] = {
    "None": (None, "is None.*return only the keys"),
    "masked array": (
        np.ma.masked_array(np.zeros(3), [True, False, False]),
        r"masked array.*filled",
    ),
    "masked array without a mask": (np.ma.masked_array(np.zeros(3)), "masked array"),
    "meta": (torch.zeros(2, 3, device="meta"), "meta device"),
    "fake": (fake(), "FakeTensor"),
    "sparse": (torch.eye(3).to_sparse(), "make it dense"),
    "sparse csr": (torch.eye(3).to_sparse_coo(), "make it dense"),
    "freed": (freed(), "memory has been freed"),
    "wrapper": (Wrapper(torch.zeros(2)), "a Wrapper"),
    "object array": (np.array([{}, {}], object), "cannot be carried"),
    "dates": (np.array(["2020-01-01"], "datetime64[D]"), "cannot be carried"),
    "texts": (np.array(["a"]), "cannot be carried"),
    "structured": (np.zeros(2, [("a", "i4"), ("b", "f4")]), "cannot be carried"),
    "record array": (
        np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]),
        "cannot be carried",
    ),
    "array of another class": (np.zeros(2).view(OtherArray), "OtherArray"),
    "long double": (np.zeros(2, np.longdouble), "cannot be carried"),
    "numbers": ([1, 2], "'k' is a list"),
    "lists": ([[1], [2, 3]], "'k' is a list"),
    "a number": (3.0, "'k' is a float"),
    "a dict": ({"a": torch.zeros(2)}, "'k' is a dict"),
    "a module's cache": (object(), "lambda batch"),
    "layers": (
        tuple(torch.zeros(4, 6) for _ in range(4)),
        r"tuple of 4 tensors.*ragged_keys=\['k'\].*torch.stack",
    ),
    "columns": ([torch.zeros(4), torch.zeros(4)], "list of 2 tensors"),
    "arrays": ([np.zeros(4), np.zeros(3)], "list of 2 tensors"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", list(REFUSED))
def test_what_cannot_be_carried_is_refused_with_its_key_and_a_remedy(kind: str) -> None:
    value, message = REFUSED[kind]
    with pytest.raises(SchemaError, match=f"'k'.*{message}|{message}"):
        arrived(value)
    with pytest.raises(SchemaError, match="'k'"):
        arrived(value)
    # The ways for batches that are just what was promised, and for small ones, take nothing more.
    promised = start_transfer({"k": torch.zeros(2, 3)}, PLAIN).description
    for first in (0, 200):
        with pytest.raises(SchemaError, match="'k'"), Teacher(MemorySink(MemoryTopic())) as teacher:
            teacher.serve(
                lambda index: {"k": value if index >= 0 else torch.zeros(2, 3)}, range(-first, 100)
            )
    for group in ([{"k": value}], [{"k": value}] * 2, [{"k": torch.zeros(2, 3)}, {"k": value}]):
        if kind == "freed" and len(group) > 1:
            # Refused where the model returns it.
            continue
        with pytest.raises(SchemaError, match="'k'"):
            start_transfers(group, PLAIN, promised, None)


def test_quantized_tensors_are_refused() -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8)
    with pytest.raises(SchemaError, match="'k'.*dequantize"):
        arrived(quantized)


def test_tensors_inside_a_transform_are_refused() -> None:
    def inside(x: torch.Tensor) -> torch.Tensor:
        with pytest.raises(SchemaError, match="'k'.*torch.func"):
            arrived(x)
        return x

    torch.func.vmap(inside)(torch.zeros(2, 3))
    torch.func.grad(lambda x: inside(x).sum())(torch.zeros(2))


X = torch.arange(6.0).reshape(2, 3)
CARRIED: dict[str, tuple[Any, Any]] = {
    "parameter": (torch.nn.Parameter(X.clone()), X),
    "part of a graph": (X.clone().requires_grad_() * 1, X),
    "subclass": (X.clone().as_subclass(Mine), X),
    "transposed": (X.T, X.T),
    "expanded": (X[:1].expand(4, 3), X[:1].expand(4, 3)),
    "negated view": (torch.complex(X, -X).conj().imag, X),
    "inference": (torch.inference_mode()(lambda: X.clone())(), X),
    "matrix": (X.numpy().view(np.matrix), X),
    "big endian": (X.numpy().astype(">f4"), X),
    "read only": (np.broadcast_to(X.numpy()[0], (2, 3)), X[:1].expand(2, 3)),
    "reversed": (X.numpy()[::-1], X.flip(0)),
}


@pytest.mark.parametrize("kind", list(CARRIED))
def test_what_is_carried_arrives_as_it_looks(kind: str) -> None:
    value, expected = CARRIED[kind]
    assert arrived(value).tolist() == expected.tolist()
    promised = start_transfer({"k": value}, PLAIN).description
    for one in start_transfers([{"k": value}, {"k": copy.copy(value)}], PLAIN, promised, None):
        found = one.columns()["k"]
        assert isinstance(found, np.ndarray)
        assert type(found) is np.ndarray
        assert found.tolist()[: len(expected)] == expected.tolist()


def test_a_memory_map_is_carried(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "x", np.int32, "w+", shape=(3,))
    mapped[:] = [1, 2, 3]
    assert arrived(mapped).tolist() == [1, 2, 3]


def rows_of(*values: Any) -> list[Any]:
    return [
        value if isinstance(value, (torch.Tensor, np.ndarray)) else torch.tensor(value)
        for value in values
    ]


def test_ragged_rows_of_different_dtypes_are_refused_and_empty_rows_add_nothing() -> None:
    big = 2**24 + 1
    for other in (
        torch.tensor([1.5]),
        torch.tensor([1], dtype=torch.int32),
        torch.tensor([1.0], dtype=torch.float16),
        torch.tensor([True]),
    ):
        with pytest.raises(
            SchemaError,
            match=f"'k'.*{str(other.dtype)[6:]}.*int64|'k'.*int64.*{str(other.dtype)[6:]}",
        ):
            arrived(rows_of([big], other), DECLARED)
    with pytest.raises(SchemaError, match=r"'k'.*float64.*int64"):
        arrived([np.array([big]), np.array([1.5])], DECLARED)
    for rows in (
        rows_of([big], []),
        rows_of([], [big], []),
        [np.array([big]), np.array([])],
        [np.array([big]), torch.tensor([])],
    ):
        found = arrived(rows, DECLARED)
        assert (found.values.tolist(), found.values.dtype) == ([big], np.int64)
        assert found.lengths.tolist() == [np.asarray(row).size for row in rows]
    with pytest.raises(SchemaError, match="'k'.*different places"):
        arrived([np.array([big]), torch.tensor([1])], DECLARED)
    with pytest.raises(SchemaError, match="'k'.*do not fit together"):
        arrived([torch.zeros(2, 3), torch.zeros(2, 4)], DECLARED)
    with pytest.raises(SchemaError, match="'k'.*single number"):
        arrived([torch.tensor(1), torch.tensor(2)], DECLARED)
    with pytest.raises(SchemaError, match="'k', row 1,.*meta"):
        arrived([torch.zeros(2), torch.zeros(2, device="meta")], DECLARED)


def test_empty_rows_have_the_dtype_and_shape_that_was_promised() -> None:
    promised = start_transfer(
        {"k": [torch.zeros(2, 4, dtype=torch.bfloat16)]}, DECLARED
    ).description
    found = arrived([torch.tensor([]), torch.tensor([])], DECLARED, promised)
    assert (found.values.shape, found.values.dtype.name, found.lengths.tolist()) == (
        (0, 4),
        "bfloat16",
        [0, 0],
    )


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("served", [False, True])
def test_a_batch_of_no_rows_is_a_batch_of_no_rows(ragged: bool, served: bool) -> None:
    def batch(*rows: int) -> Any:
        if not rows:
            return {"x": []}
        return {
            "x": [torch.full((index % 3,), index) for index in rows]
            if ragged
            else torch.tensor(rows)
        }

    batches = [batch(), batch(1, 2), batch(), batch(4), batch()]
    topic = MemoryTopic()
    with Teacher(MemorySink(topic), ragged_keys=["x"] if ragged else []) as teacher:
        if served:
            teacher.serve(lambda one: one, batches)
        else:
            for one in batches:
                teacher.write(one)
    with student_of(topic) as student:
        (found,) = student.knowledge(9)
    assert (found["x.lengths"] if ragged else found["x"]).tolist() == (
        [1, 2, 1] if ragged else [1, 2, 4]
    )


def test_no_rows_beside_rows_are_refused() -> None:
    with pytest.raises(SchemaError, match="'a'"):
        start_transfer({"a": [], "b": torch.zeros(2)}, PLAIN)
    promised = start_transfer({"a": torch.zeros(1), "b": torch.zeros(1)}, PLAIN).description
    with pytest.raises(SchemaError, match="'a' has 0, 'b' has 2"):
        start_transfer({"a": [], "b": torch.zeros(2)}, PLAIN, promised)


def test_a_promise_of_plain_rows_is_not_kept_by_a_list() -> None:
    promised = start_transfer({"k": torch.zeros(2, 3)}, PLAIN).description
    with pytest.raises(SchemaError, match="list of 2 tensors"):
        arrived([torch.zeros(3), torch.zeros(3)], PLAIN, promised)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_and_ragged_need_no_declaration() -> None:
    rows = [torch.arange(2), torch.arange(3)]
    for value in (
        torch.nested.nested_tensor(rows),
        torch.nested.nested_tensor(rows, layout=torch.jagged),
    ):
        assert arrived(value).values.tolist() == [0, 1, 0, 1, 2]
    for values, message in (
        (np.ma.masked_array(np.zeros(3)), "masked"),
        (torch.zeros(3, device="meta"), "meta"),
    ):
        with pytest.raises(SchemaError, match=f"'k'.*{message}"):
            arrived(Ragged(values, np.array([1, 2])))  # type: ignore[arg-type]


class Output(collections.OrderedDict[str, Any]):
    """What a model of Hugging Face returns: a dict whose items are attributes too."""

    def __init__(self, **items: Any) -> None:
        super().__init__(items)
        self.__dict__.update(items)


def test_a_models_output_with_more_than_tensors_says_how_to_pick_keys() -> None:
    class Cache:
        pass

    logits = torch.zeros(2, 3)
    for key, value in (
        ("past_key_values", Cache()),
        ("past_key_values", ((logits, logits),)),
        ("loss", None),
        ("hidden_states", (logits,) * 2),
    ):
        with pytest.raises(SchemaError, match=f"{key!r}.*lambda batch|{key!r}.*torch.stack"):
            start_transfer(Output(logits=logits, **{key: value}), PLAIN)
    assert list(start_transfer(Output(logits=logits), PLAIN).columns()) == ["logits"]
    with pytest.raises(SchemaError, match="must return a dict.*lambda batch"):
        start_transfer((logits,), PLAIN)


def test_keys_are_texts() -> None:
    for key in (1, None, ("a",)):
        with pytest.raises(SchemaError, match="not text"):
            start_transfer({key: torch.zeros(1)}, PLAIN)
        with pytest.raises((SchemaError, DescriptionChanged), match="not text"):
            start_transfer(
                {key: torch.zeros(1)},
                PLAIN,
                start_transfer({"k": torch.zeros(1)}, PLAIN).description,
            )


@pytest.mark.parametrize(
    ("dtype", "wire", "value", "advice", "never"),
    [
        ("float32", "float16", 1e6, "bfloat16", "float32 or"),
        ("float64", "float16", 1e6, "float32 or bfloat16", None),
        ("float32", "bfloat16", 3.4e38, "as it is, float32", "as bfloat16"),
        ("float64", "bfloat16", 1e300, "as it is, float64", "as bfloat16"),
        ("float64", "float32", 1e300, "as it is, float64", "bfloat16"),
    ],
)
@pytest.mark.parametrize("numpy", [False, True])
def test_a_value_that_does_not_fit_is_an_error_whose_advice_fits_the_dtypes(
    dtype: str, wire: str, value: float, advice: str, never: str | None, numpy: bool
) -> None:
    tensor = torch.tensor([value], dtype=getattr(torch, dtype))
    with pytest.raises(SchemaError, match=f"'k'.*does not fit {wire}.*{advice}") as caught:
        arrived(
            tensor.numpy() if numpy else tensor,
            WireOptions(dtypes={"k": wire}, encoded={}, ragged=frozenset()),
        )
    assert never is None or never not in str(caught.value)
