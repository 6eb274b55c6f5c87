"""A batch of any structure -> the same structure with its leaves replaced.

Containers are dicts, lists and tuples with their subclasses, `UserDict` (such as a tokenizer's
`BatchEncoding`), dataclasses and attrs classes. Everything else is a leaf, and the caller decides
what replaces it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import OrderedDict, UserDict, defaultdict, deque
from collections.abc import Callable, Iterable
from types import MappingProxyType
from typing import Any

# Types of leaves that are never replaced: immutable, and the most common ones besides tensors.
PLAIN: frozenset[type] = frozenset((str, bytes, int, float, complex, bool, type(None)))
# Deeper containers count as leaves, so that a structure that contains itself ends.
_MAX_DEPTH = 20


def map_structure(
    value: Any,
    leaf: Callable[[Any], Any],
    *,
    copy_containers: bool = False,
    moves: Callable[[Any], bool] = lambda value: False,
    depth: int = 0,
) -> Any:
    """Return the structure with `leaf(item)` in place of each leaf.

    Args:
        value: A batch.
        leaf: Called with tensors, arrays and other objects; not with numbers and texts.
        copy_containers: Whether to make new containers even where `leaf` changed nothing in them.
        moves: Which objects of a user's class are leaves, although they are containers.
        depth: How deep `value` is in the structure.

    Returns:
        The new structure; the same object if nothing changed and `copy_containers` is False. A
        container that cannot be copied is passed to `leaf` itself.
    """
    kind = type(value)
    if kind in PLAIN:
        return value
    if depth >= _MAX_DEPTH:
        return leaf(value)

    def inner(item: Any) -> Any:
        return map_structure(
            item, leaf, copy_containers=copy_containers, moves=moves, depth=depth + 1
        )

    if kind is dict:
        mapping = {key: inner(item) for key, item in value.items()}
        return mapping if copy_containers or _changed(mapping.values(), value.values()) else value
    if kind is list or kind is tuple:
        items = [inner(item) for item in value]
        return kind(items) if copy_containers or _changed(items, value) else value
    return _rebuild_object(value, inner, leaf, copy_containers=copy_containers, moves=moves)


def _rebuild_object(
    value: Any,
    inner: Callable[[Any], Any],
    leaf: Callable[[Any], Any],
    *,
    copy_containers: bool,
    moves: Callable[[Any], bool],
) -> Any:
    """`map_structure` for everything but plain dicts, lists and tuples; `inner` rebuilds an item."""
    kind = type(value)
    if isinstance(value, (dict, UserDict)):
        pairs = {key: inner(item) for key, item in value.items()}
        return (
            _mapping_with(value, pairs, leaf)
            if copy_containers or _changed(pairs.values(), value.values())
            else value
        )
    if moves(value):
        return leaf(value)
    if isinstance(value, (list, tuple, deque)):
        items = [inner(item) for item in value]
        return (
            _sequence_with(value, items, leaf)
            if copy_containers or _changed(items, value)
            else value
        )
    if kind is MappingProxyType:
        mapping = {key: inner(item) for key, item in value.items()}
        return (
            MappingProxyType(mapping)
            if copy_containers or _changed(mapping.values(), value.values())
            else value
        )
    if (dataclasses.is_dataclass(value) or hasattr(kind, "__attrs_attrs__")) and not isinstance(
        value, type
    ):
        fields = _fields(value)
        attributes = {name: inner(item) for name, item in fields.items()}
        return (
            _object_with(value, attributes, leaf)
            if copy_containers or _changed(attributes.values(), fields.values())
            else value
        )
    return leaf(value)


def _changed(new: Iterable[Any], old: Iterable[Any]) -> bool:
    return any(one is not other for one, other in zip(new, old, strict=True))


def _mapping_with(value: Any, items: dict[Any, Any], leaf: Callable[[Any], Any]) -> Any:
    """A copy of a mapping of a user's class; `leaf(value)` if it cannot be copied."""
    try:
        if isinstance(value, defaultdict):
            copied: Any = copy.copy(value)
        elif isinstance(value, UserDict):
            copied = UserDict.__new__(type(value))
            copied.__dict__.update(value.__dict__)
            copied.__dict__["data"] = dict(value.data)
        else:
            # Not through the class's constructor, which may take any arguments.
            copied = (OrderedDict if isinstance(value, OrderedDict) else dict).__new__(type(value))
            if hasattr(copied, "__dict__"):
                copied.__dict__.update(value.__dict__)
        # Through the class's own `__setitem__`: some classes also keep the items as attributes.
        for key, item in items.items():
            copied[key] = item
    except Exception:  # a user's class may raise anything; it is then a leaf
        return leaf(value)
    return copied if all(copied[key] is item for key, item in items.items()) else leaf(value)


def _sequence_with(value: Any, items: list[Any], leaf: Callable[[Any], Any]) -> Any:
    kind = type(value)
    try:
        if hasattr(value, "_make"):
            return value._make(items)
        if isinstance(value, deque):
            return deque(items, value.maxlen) if kind is deque else leaf(value)
        if isinstance(value, tuple):
            return _tuple_with(value, items)
        copied = copy.copy(value)
        list.__setitem__(copied, slice(None), items)
    except Exception:  # a user's class may raise anything; it is then a leaf
        return leaf(value)
    return copied if copied is not value else leaf(value)


def _tuple_with(value: Any, items: list[Any]) -> Any:
    kind = type(value)
    try:
        copied = tuple.__new__(kind, items)
    except TypeError:
        # Tuple types defined in C, such as torch.return_types.max, are constructed from the items.
        return kind(items)
    if hasattr(value, "__dict__"):
        copied.__dict__.update(value.__dict__)
    return copied


def _fields(value: Any) -> dict[str, Any]:
    """The attributes that are set on a dataclass or attrs object, with or without slots."""
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
    # A field's default is an attribute of the class; only the object's own attributes count.
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
        copied = copy.copy(value)
        if copied is value:
            return leaf(value)
        for name, item in attributes.items():
            # Frozen classes do not allow ordinary assignment.
            object.__setattr__(copied, name, item)
    except Exception:  # a user's class may raise anything; it is then a leaf
        return leaf(value)
    return copied
