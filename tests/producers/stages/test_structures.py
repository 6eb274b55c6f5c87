"""Batches in whatever people build them are moved to a device in the same structure, or passed as they are."""

from __future__ import annotations

import collections
from collections import OrderedDict, UserDict, defaultdict, deque, namedtuple
from dataclasses import dataclass, field
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from tutelage.producers.stages.devices import moved
from tutelage.producers.stages.ownership import owned
from tutelage.producers.stages.row_counts import rows_in

META = torch.device("meta")
Pair = namedtuple("Pair", "x y")


class Defaults(NamedTuple):
    x: torch.Tensor
    label: str = "none"


class Strict(dict[str, Any]):
    """A dict with a constructor of its own."""

    def __init__(self, *, required: str) -> None:
        super().__init__()
        self.required = required


class Mirrored(OrderedDict[str, Any]):
    """A dict whose items are attributes too, as a model's output is in Hugging Face."""

    def __init__(self, **items: Any) -> None:
        super().__init__()
        for key, item in items.items():
            self[key] = item

    def __setitem__(self, key: str, item: Any) -> None:
        super().__setitem__(key, item)
        super().__setattr__(key, item)


class Encoding(UserDict[str, Any]):
    """What a tokenizer returns: a UserDict with more beside the data, and a `to` that changes it in place."""

    def __init__(self, data: dict[str, Any], encodings: Any) -> None:
        super().__init__(data)
        self.encodings = encodings

    def to(self, device: Any) -> Encoding:
        self.data = {key: item.to(device) for key, item in self.data.items()}
        return self


class Items(list[Any]):
    """A list with a constructor of its own and something beside its items."""

    def __init__(self, first: Any, second: Any) -> None:
        super().__init__([first, second])
        self.name = "mine"


@dataclass
class Plain:
    x: torch.Tensor
    label: str
    made: torch.Tensor = field(init=False)
    unset: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.made = self.x + 1


@dataclass(frozen=True, slots=True)
class Frozen:
    x: torch.Tensor
    inner: dict[str, torch.Tensor]


class Slotted:
    """Like a class of attrs."""

    __slots__ = ("x",)
    __attrs_attrs__ = (SimpleNamespace(name="x"),)

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x


class Knows:
    """A batch class of the user's, which knows how it is moved."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def to(self, device: torch.device) -> Knows:
        return Knows(self.x.to(device))


class InPlace(Knows):
    def to(self, device: torch.device) -> None:  # type: ignore[override]  # some do so
        self.x = self.x.to(device)


class Unit:
    """Its `to` means something else."""

    def to(self, unit: str) -> str:
        raise TypeError(unit)


def x() -> torch.Tensor:
    return torch.ones(2)


def strict() -> Strict:
    made = Strict(required="yes")
    made["x"] = x()
    return made


def items_of(batch: Any) -> list[Any]:
    if isinstance(batch, torch.Tensor):
        return [batch]
    if isinstance(batch, collections.abc.Mapping):
        return [one for item in batch.values() for one in items_of(item)]
    if isinstance(batch, (list, tuple, deque)):
        return [one for item in batch for one in items_of(item)]
    names = [*getattr(batch, "__dict__", {}), *getattr(type(batch), "__slots__", ())]
    return [
        one
        for name in names
        if not isinstance(batch, (str, int))
        for one in items_of(getattr(batch, name))
    ]


MOVED: dict[str, Any] = {
    "tensor": x,
    "dict": lambda: {"x": x(), "label": "a"},
    "defaultdict": lambda: defaultdict(x, x=x()),
    "OrderedDict": lambda: OrderedDict(b=x(), a=x()),
    "dict with another constructor": strict,
    "dict with attributes": lambda: Mirrored(x=x(), none=None),
    "UserDict": lambda: UserDict(x=x()),
    "a tokenizer's encoding": lambda: Encoding({"x": x()}, [1]),
    "mapping proxy": lambda: MappingProxyType({"x": x()}),
    "list": lambda: [x(), {"x": x()}],
    "list with another constructor": lambda: Items(x(), x()),
    "deque": lambda: deque([x()], 4),
    "tuple": lambda: (x(), "a"),
    "named tuple": lambda: Pair(x(), [x()]),
    "typed named tuple": lambda: Defaults(x()),
    "what torch returns": lambda: torch.ones(2, 3).max(1),
    "dataclass": lambda: Plain(x(), "a"),
    "frozen dataclass": lambda: Frozen(x(), {"y": x()}),
    "attrs": lambda: Slotted(x()),
    "object with to": lambda: Knows(x()),
    "object that moves itself": lambda: InPlace(x()),
}


@pytest.mark.parametrize("kind", list(MOVED))
def test_a_batch_is_moved_in_its_own_structure(kind: str) -> None:
    batch = MOVED[kind]()
    before = [(item.device.type, item.shape) for item in items_of(batch)]
    found = moved(batch, META)
    assert type(found) is type(batch)
    assert [(item.device.type, item.shape) for item in items_of(found)] == [
        ("meta", shape) for _, shape in before
    ]
    if kind != "object that moves itself":
        assert [item.device.type for item in items_of(batch)] == [device for device, _ in before]
    for name in ("required", "name", "encodings", "label", "default_factory", "maxlen"):
        assert getattr(found, name, None) == getattr(batch, name, None)
    if isinstance(batch, collections.abc.Mapping):
        assert list(found) == list(batch)


@pytest.mark.parametrize("kind", [kind for kind in MOVED if not kind.startswith("object")])
def test_a_batch_is_rebuilt_only_if_something_in_it_moved_and_copied_whole(kind: str) -> None:
    batch = MOVED[kind]()
    assert moved(batch, torch.device("cpu")) is batch
    copied = owned(batch)
    assert type(copied) is type(batch)
    for one, other in zip(items_of(copied), items_of(batch), strict=True):
        assert torch.equal(one, other)
        assert one.data_ptr() != other.data_ptr()


def test_packed_sequences_are_moved_their_own_way_and_copied() -> None:
    packed = pack_sequence([torch.ones(3), torch.ones(2)])
    found = moved(packed, META)
    assert isinstance(found, PackedSequence)
    assert (found.data.device.type, found.batch_sizes.device.type) == ("meta", "cpu")
    copied = owned(packed)
    assert isinstance(copied, PackedSequence)
    assert copied.data.data_ptr() != packed.data.data_ptr()


def test_what_cannot_be_moved_is_passed_as_it_is() -> None:
    class Fixed(dict[str, Any]):
        def __setitem__(self, key: str, item: Any) -> None:
            raise TypeError("fixed")

    loop: list[Any] = []
    loop.append(loop)
    others: list[Any] = [
        Unit(),
        object(),
        "text",
        np.ones(2),
        None,
        3,
        Fixed(x=x()),
        SimpleNamespace(x=x()),
        {1, 2},
        loop,
        Knows,
    ]
    for other in others:
        assert moved(other, META) is other
    assert moved([x(), others[0]], META)[1] is others[0]


class PointsToRows(SimpleNamespace):
    pass


@pytest.mark.parametrize(
    ("batch", "rows"),
    [
        ([torch.rand(3, 8, 8) for _ in range(7)], None),
        ([torch.rand(3, 8, 8) for _ in range(3)], 3),
        ([torch.rand(3, 8, 8), torch.rand(3, 9, 9)], None),
        ([np.zeros((3, 8)), np.zeros((3, 8))], None),
        ([torch.rand(5, 8), torch.zeros(5, dtype=torch.int64)], 5),
        ({"images": [torch.rand(3, 8, 8) for _ in range(7)], "labels": torch.zeros(7)}, 7),
        ({"images": [torch.rand(3, 8, 8) for _ in range(7)]}, None),
        (UserDict(x=torch.zeros(4, 2)), 4),
        ([{"x": torch.zeros(3, 8)} for _ in range(2)], None),
        ([{"x": torch.zeros(4, 8)}, torch.zeros(4)], 4),
        ([("a", "b"), torch.zeros(2)], 2),
        ([["a", "b", "c"], ["d", "e", "f"]], None),
        ([[1, 2], [3, 4, 5]], None),
        ([torch.tensor(1), torch.tensor(2)], 2),
        ([object(), object(), object()], 3),
        (["a", 1, None], 3),
        (Defaults(torch.zeros(4)), None),
        (Pair(torch.zeros(4), torch.zeros(4, 2)), 4),
        (pack_sequence([torch.ones(3), torch.ones(2)]), None),
        ({}, None),
        ((), None),
        ({"x": torch.zeros(4), "note": "text"}, None),
    ],
)
def test_rows_are_never_taken_from_something_that_may_be_something_else(
    batch: Any, rows: int | None
) -> None:
    assert rows_in(batch) == rows
