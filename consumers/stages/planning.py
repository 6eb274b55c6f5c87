"""How each key of the merged batches comes about: decided from the teachers' descriptions, before any batch. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from tutelage.consumers.stages.strategies import (
    MergeStrategy,
    Strategy,
    parsed,
    promoted,
    refuse_incalculable,
    result_dtype,
    torch_dtype,
)
from tutelage.consumers.stages.torch_view import WireView
from tutelage.schemas.errors import MergeError
from tutelage.schemas.record import Description, KeySpec


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyPlan:
    """One key of the result: who has it, and how it comes about."""

    key: str
    teachers: tuple[int, ...]
    specs: tuple[KeySpec, ...]
    strategy: Strategy
    result: KeySpec = field(repr=False)
    views: tuple[WireView, ...] = field(repr=False)
    dtypes: tuple[torch.dtype, ...] = field(repr=False)


def refuse_missing_ids(
    sample_id: str, names: Sequence[str], descriptions: Sequence[Description]
) -> None:
    """MergeError if a teacher lacks the sample id: its rows could not be compared with the others'."""
    lacking = [
        name
        for name, description in zip(names, descriptions, strict=True)
        if sample_id not in description
    ]
    if 0 < len(lacking) < len(names):
        raise MergeError(
            f"{' and '.join(lacking)} {'has' if len(lacking) == 1 else 'have'} no key {sample_id!r}, the sample id, so the rows cannot be "
            "compared with those of the other teachers; have every teacher write it, or leave sample_id out"
        )


def _refuse_weak_ids(key: str, names: Sequence[str], specs: Sequence[KeySpec]) -> None:
    """MergeError if equal ids may belong to different samples."""
    if 0 in specs[0].shape:
        raise MergeError(
            f"the sample id {key!r} has rows of shape {list(specs[0].shape)}, which hold nothing to compare"
        )
    for name, spec in zip(names, specs, strict=False):
        if spec.wire != spec.dtype:
            raise MergeError(
                f"the sample id {key!r} of {name} is {spec.dtype} but travels as {spec.wire}, in which different ids become the same; "
                f"have the teacher leave it as it is (name the other keys in wire=)"
            )


def planned(
    key: str,
    names: Sequence[str],
    descriptions: Sequence[Description],
    strategies: Mapping[str, MergeStrategy],
    sample_id: str | None,
) -> KeyPlan:
    teachers = tuple(index for index, description in enumerate(descriptions) if key in description)
    specs = tuple(descriptions[index][key] for index in teachers)
    who = " and ".join(f"{names[index]} ({descriptions[index][key]})" for index in teachers)
    asked = strategies.get(key)
    if len(teachers) > 1 and asked is None and key != sample_id:
        raise MergeError(
            f"key {key!r} comes from {who}: say how to merge it, such as merge={{{key!r}: 'mean'}} (--merge {key}=mean)"
        )
    strategy = parsed(key, asked) if asked is not None else Strategy(name="first")
    if len(teachers) == 1:
        # What one teacher alone has passes through, whatever was asked for keys several have.
        strategy = Strategy(name="first")
    if strategy.weights and len(strategy.weights) != len(teachers):
        raise MergeError(
            f"key {key!r} comes from {len(teachers)} teachers, but has {len(strategy.weights)} weights"
        )
    if len(teachers) > 1:
        refuse_incalculable(key, strategy, [spec.dtype for spec in specs])
    shapes = {spec.shape for spec in specs}
    alike = {spec.shape[:-1] for spec in specs} if strategy.name == "concat" else shapes
    if strategy.name not in ("first", "callable") and len(alike) > 1:
        raise MergeError(
            f"key {key!r} comes from {who}: {strategy.name} needs rows of the same shape"
        )
    if strategy.name == "concat" and not all(spec.inner for spec in specs):
        raise MergeError(
            f"key {key!r} comes from {who}: rows without a dimension of their own cannot be concatenated; use stack"
        )
    if key == sample_id and len({(spec.dtype, spec.shape) for spec in specs}) > 1:
        raise MergeError(
            f"the sample id {key!r} comes from {who}: it must have one dtype and shape"
        )
    if key == sample_id and specs[0].ragged:
        raise MergeError(f"the sample id {key!r} is ragged; an id has one shape")
    if key == sample_id and len(teachers) > 1:
        _refuse_weak_ids(key, names, specs)
    if specs[0].ragged and strategy.name in ("stack", "callable"):
        raise MergeError(f"key {key!r} is ragged: {strategy.name} is not defined for it")
    return KeyPlan(
        key=key,
        teachers=teachers,
        specs=specs,
        strategy=strategy,
        result=_result(key, specs, strategy),
        views=tuple(WireView(spec.wire, spec.inner) for spec in specs),
        dtypes=tuple(torch_dtype(spec.dtype) for spec in specs),
    )


def _result(key: str, specs: Sequence[KeySpec], strategy: Strategy) -> KeySpec:
    first = specs[0]
    if strategy.name == "first":
        return KeySpec(key=key, dtype=first.dtype, shape=first.shape)
    if strategy.function is not None:
        try:
            tried = strategy.function(
                [torch.zeros((1, *spec.shape), dtype=torch_dtype(spec.dtype)) for spec in specs]
            )
            return KeySpec(
                key=key, dtype=str(tried.dtype).removeprefix("torch."), shape=tuple(tried.shape[1:])
            )
        except Exception as error:
            raise MergeError(
                f"key {key!r}: its merge function failed on a row of zeros: {error!r}"
            ) from error
    dtype = result_dtype(strategy, promoted([torch_dtype(spec.dtype) for spec in specs]))
    shape = first.shape
    if strategy.name == "stack":
        shape = (len(specs), *shape)
    elif strategy.name == "concat":
        shape = (*shape[:-1], sum(spec.shape[-1] for spec in specs))
    return KeySpec(key=key, dtype=str(dtype).removeprefix("torch."), shape=tuple(shape))
