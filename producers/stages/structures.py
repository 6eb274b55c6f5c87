"""Batches as people build them -> the same structure with other tensors in it.

Knows dicts, lists and tuples with their subclasses, `UserDict` (a tokenizer's `BatchEncoding` is one), dataclasses and attrs classes.
What happens to tensors and to everything else is the caller's choice.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import OrderedDict, UserDict, defaultdict, deque
from collections.abc import Callable, Iterable
from types import MappingProxyType
from typing import Any

# Values that hold nothing else and cannot change: most of what is in a batch besides tensors.
PLAIN: frozenset[type] = frozenset((str, bytes, int, float, complex, bool, type(None)))
# A structure that holds itself ends here.
_DEEPEST = 20


def rebuilt(
    value: Any,
    leaf: Callable[[Any], Any],
    *,
    anew: bool = False,
    moves: Callable[[Any], bool] = lambda value: False,
    depth: int = 0,
) -> Any:
    """The structure with `leaf(item)` in place of each item that is no container.

    Args:
        value: A batch.
        leaf: Called with tensors, arrays and objects of other types; not with numbers and texts.
        anew: Whether containers are made anew even where `leaf` changed nothing in them.
        moves: Which objects of a class of the user's are for `leaf`, although they are containers.

    Returns:
        The same object where nothing changed and `anew` is False.
    """
    kind = type(value)
    if kind in PLAIN:
        return value
    if depth >= _DEEPEST:
        return leaf(value)

    def inner(item: Any) -> Any:
        return rebuilt(item, leaf, anew=anew, moves=moves, depth=depth + 1)

    if kind is dict:
        mapping = {key: inner(item) for key, item in value.items()}
        return mapping if anew or _changed(mapping.values(), value.values()) else value
    if kind is list or kind is tuple:
        items = [inner(item) for item in value]
        return kind(items) if anew or _changed(items, value) else value
    if isinstance(value, (dict, UserDict)):
        pairs = {key: inner(item) for key, item in value.items()}
        return (
            _mapping_with(value, pairs, leaf)
            if anew or _changed(pairs.values(), value.values())
            else value
        )
    if moves(value):
        return leaf(value)
    if isinstance(value, (list, tuple, deque)):
        items = [inner(item) for item in value]
        return _sequence_with(value, items, leaf) if anew or _changed(items, value) else value
    if kind is MappingProxyType:
        mapping = {key: inner(item) for key, item in value.items()}
        return (
            MappingProxyType(mapping)
            if anew or _changed(mapping.values(), value.values())
            else value
        )
    if (dataclasses.is_dataclass(value) or hasattr(kind, "__attrs_attrs__")) and not isinstance(
        value, type
    ):
        fields = _fields(value)
        attributes = {name: inner(item) for name, item in fields.items()}
        return (
            _object_with(value, attributes, leaf)
            if anew or _changed(attributes.values(), fields.values())
            else value
        )
    return leaf(value)


def _changed(new: Iterable[Any], old: Iterable[Any]) -> bool:
    return any(one is not other for one, other in zip(new, old, strict=True))


def _mapping_with(value: Any, items: dict[Any, Any], leaf: Callable[[Any], Any]) -> Any:
    """A copy of a mapping of the user's own class. `leaf(value)` where it cannot be had."""
    try:
        if isinstance(value, defaultdict):
            made: Any = copy.copy(value)
        elif isinstance(value, UserDict):
            made = UserDict.__new__(type(value))
            made.__dict__.update(value.__dict__)
            made.__dict__["data"] = dict(value.data)
        else:
            # Without the class's constructor, which may take anything.
            made = (OrderedDict if isinstance(value, OrderedDict) else dict).__new__(type(value))
            if hasattr(made, "__dict__"):
                made.__dict__.update(value.__dict__)
        # Through the class's own way, since some keep the items as attributes too.
        for key, item in items.items():
            made[key] = item
    except Exception:  # whatever a class of the user's raises, it is passed as it is
        return leaf(value)
    return made if all(made[key] is item for key, item in items.items()) else leaf(value)


def _sequence_with(value: Any, items: list[Any], leaf: Callable[[Any], Any]) -> Any:
    kind = type(value)
    try:
        if hasattr(value, "_make"):
            return value._make(items)
        if isinstance(value, deque):
            return deque(items, value.maxlen) if kind is deque else leaf(value)
        if isinstance(value, tuple):
            return _tuple_with(value, items)
        made = copy.copy(value)
        list.__setitem__(made, slice(None), items)
    except Exception:  # whatever a class of the user's raises, it is passed as it is
        return leaf(value)
    return made if made is not value else leaf(value)


def _tuple_with(value: Any, items: list[Any]) -> Any:
    kind = type(value)
    try:
        made = tuple.__new__(kind, items)
    except TypeError:
        # What C makes (torch.return_types.max) has a constructor of its own, which takes the items.
        return kind(items)
    if hasattr(value, "__dict__"):
        made.__dict__.update(value.__dict__)
    return made


def _fields(value: Any) -> dict[str, Any]:
    """The attributes of an object of a dataclass or an attrs class, in slots or not; those that are not set are left out."""
    kind = type(value)
    names = list(getattr(value, "__dict__", {}))
    declared = (
        dataclasses.fields(value) if dataclasses.is_dataclass(value) else kind.__attrs_attrs__
    )
    names += [field.name for field in declared if field.name not in names]
    missing = object()
    found = {name: _attribute(value, name, missing) for name in names}
    return {name: item for name, item in found.items() if item is not missing}


def _attribute(value: Any, name: str, missing: object) -> Any:
    # A field's default lies on the class; only what the object has itself counts.
    if name in getattr(value, "__dict__", {}):
        return value.__dict__[name]
    return (
        getattr(value, name, missing)
        if not hasattr(value, "__dict__") or _in_slots(type(value), name)
        else missing
    )


def _in_slots(kind: type, name: str) -> bool:
    return any(name in tuple(getattr(base, "__slots__", ())) for base in kind.__mro__)


def _object_with(value: Any, attributes: dict[str, Any], leaf: Callable[[Any], Any]) -> Any:
    try:
        made = copy.copy(value)
        if made is value:
            return leaf(value)
        for name, item in attributes.items():
            # Frozen classes refuse the ordinary way.
            object.__setattr__(made, name, item)
    except Exception:  # whatever a class of the user's raises, it is passed as it is
        return leaf(value)
    return made
