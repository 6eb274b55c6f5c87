"""How each key of the merged batches is made, decided from the descriptions before any batch.

No I/O, threads or clocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from tutelage.consumers.stages.fold import check_dtypes, promoted_dtype, result_dtype
from tutelage.consumers.stages.sparse_merge import SparseKey, check_sparse_strategy, is_sparse
from tutelage.consumers.stages.strategies import FIRST, MergeStrategy, Strategy, parse_strategy
from tutelage.consumers.stages.torch_view import ColumnView, Int8View, dtype_name, torch_dtype
from tutelage.schemas.encodings import Int8
from tutelage.schemas.errors import MergeError
from tutelage.schemas.record import Description, KeySpec


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyPlan:
    """How one key of the result is made.

    Args:
        key: The key.
        teachers: The numbers of the teachers that have it.
        specs: The key's dtype and shape at each of these teachers.
        strategy: How their values are merged.
        result: The dtype and shape of the result.
        views: Views each teacher's columns as tensors.
        dtypes: Each teacher's dtype, to which its wire dtype is decoded.
        sparse: Makes `SparseTarget`s of the key; None if it arrives as tensors.
    """

    key: str
    teachers: tuple[int, ...]
    specs: tuple[KeySpec, ...]
    strategy: Strategy
    result: KeySpec = field(repr=False)
    views: tuple[ColumnView | Int8View, ...] = field(repr=False)
    dtypes: tuple[torch.dtype, ...] = field(repr=False)
    sparse: SparseKey | None = field(default=None, repr=False)

    @property
    def used(self) -> tuple[int, ...]:
        """The numbers of the teachers whose values are in the result."""
        return self.teachers[:1] if self.strategy.name in ("first", "same") else self.teachers

    @property
    def mixes(self) -> bool:
        """Whether a row of the result cannot be divided into what each teacher gave."""
        return self.strategy.rule.fold is not None or self.strategy.name == "answered"


def check_all_have_ids(
    sample_id: str, names: Sequence[str], descriptions: Sequence[Description]
) -> None:
    """Check that all teachers have the sample id, or none.

    Raises:
        MergeError: A teacher lacks it, so its rows cannot be compared with the others'.
    """
    lacking = [
        name
        for name, description in zip(names, descriptions, strict=True)
        if sample_id not in description
    ]
    if 0 < len(lacking) < len(names):
        raise MergeError(
            f"{' and '.join(lacking)} {'has' if len(lacking) == 1 else 'have'} no key "
            f"{sample_id!r}, the sample id, so the rows cannot be compared with those of the other "
            "teachers; have every teacher write it, or leave sample_id out"
        )


def plan_key(
    key: str,
    names: Sequence[str],
    descriptions: Sequence[Description],
    strategies: Mapping[str, MergeStrategy],
    sample_id: str | None,
    *,
    pad_left: bool = False,
) -> KeyPlan:
    """Decide how a key is merged.

    Args:
        key: A key of at least one teacher.
        names: The teachers' names, for messages.
        descriptions: What each teacher writes.
        strategies: Key -> strategy, as the user gave them.
        sample_id: The key whose values must be equal row by row, if there is one.
        pad_left: Whether shorter rows of ragged keys are padded on the left.

    Raises:
        MergeError: The key cannot be merged as asked.
    """
    teachers = tuple(index for index, description in enumerate(descriptions) if key in description)
    specs = tuple(descriptions[index][key] for index in teachers)
    who = " and ".join(f"{names[index]} ({descriptions[index][key]})" for index in teachers)
    strategy = _strategy_for(key, strategies.get(key), len(teachers), who, key == sample_id)
    owners = [names[index] for index in teachers]
    sparse = None
    if any(map(is_sparse, specs[:1] if strategy.rule.chooses else specs)):
        check_sparse_strategy(key, strategy, specs, who)
        sparse = SparseKey(key, owners, specs, strategy, pad_left=pad_left)
    _check_specs(key, strategy, specs, who)
    if key == sample_id:
        _check_ids(key, owners, specs, who)
    if specs[0].ragged and not strategy.rule.takes_ragged:
        raise MergeError(f"key {key!r} is ragged: {strategy.name} is not defined for it")
    return KeyPlan(
        key=key,
        teachers=teachers,
        specs=specs,
        strategy=strategy,
        result=specs[0] if sparse is not None else _result_spec(key, specs, strategy),
        views=tuple(map(_view, specs)),
        dtypes=tuple(torch_dtype(spec.dtype) for spec in specs),
        sparse=sparse,
    )


def _view(spec: KeySpec) -> ColumnView | Int8View:
    """How the arrays of a key become tensors. Those of sparse keys do not: see `SparseKey`."""
    if isinstance(spec.encoding, Int8):
        return Int8View(spec.key, spec.inner)
    return ColumnView(spec.wire_dtype.name, spec.inner)


def _strategy_for(
    key: str, given: MergeStrategy | None, teachers: int, who: str, is_sample_id: bool
) -> Strategy:
    """The strategy for a key of this many teachers."""
    if teachers > 1 and given is None and not is_sample_id:
        raise MergeError(
            f"key {key!r} comes from {who}: say how to merge it, such as merge={{{key!r}: 'mean'}} "
            f"(--merge {key}=mean)"
        )
    strategy = parse_strategy(key, given) if given is not None else FIRST
    if teachers == 1:
        # A key of one teacher passes through, even if a strategy was given for it.
        strategy = FIRST
    if strategy.weights and len(strategy.weights) != teachers:
        raise MergeError(
            f"key {key!r} comes from {teachers} teachers, but has {len(strategy.weights)} weights"
        )
    return strategy


def _check_specs(key: str, strategy: Strategy, specs: Sequence[KeySpec], who: str) -> None:
    """Check that a strategy can merge the teachers' dtypes and shapes."""
    if len(specs) > 1:
        check_dtypes(key, strategy, [spec.dtype for spec in specs])
    shapes = {strategy.rule.compared(spec.shape) for spec in specs}
    if not strategy.rule.takes_any and len(shapes) > 1:
        raise MergeError(
            f"key {key!r} comes from {who}: {strategy.name} needs rows of the same shape"
        )
    if strategy.name in ("answered", "same") and len(set(specs)) > 1:
        does = "takes each row from one teacher" if strategy.name == "answered" else "compares bits"
        raise MergeError(
            f"key {key!r} comes from {who}: {strategy.name} {does}, so they must have one dtype, "
            "shape and encoding"
        )
    if strategy.name == "concat" and not all(spec.inner for spec in specs):
        raise MergeError(
            f"key {key!r} comes from {who}: rows without a dimension of their own cannot be "
            "concatenated; use stack"
        )


def _check_ids(key: str, names: Sequence[str], specs: Sequence[KeySpec], who: str) -> None:
    """Check that sample ids can be compared, and that equal ids are ids of the same sample."""
    if any(spec.encoding is not None for spec in specs):
        raise MergeError(
            f"the sample id {key!r} comes from {who}: an id is sent as it is, without an encoding"
        )
    if len({(spec.dtype, spec.shape) for spec in specs}) > 1:
        raise MergeError(
            f"the sample id {key!r} comes from {who}: it must have one dtype and shape"
        )
    if specs[0].ragged:
        raise MergeError(f"the sample id {key!r} is ragged; an id has one shape")
    if len(specs) == 1:
        return
    if 0 in specs[0].shape:
        raise MergeError(
            f"the sample id {key!r} has rows of shape {list(specs[0].shape)}, which hold nothing "
            "to compare"
        )
    for name, spec in zip(names, specs, strict=True):
        if spec.wire != spec.dtype:
            raise MergeError(
                f"the sample id {key!r} of {name} is {spec.dtype} but travels as {spec.wire}, "
                "in which different ids become equal; have the teacher send it unchanged (name "
                "only the other keys in wire=)"
            )


def _result_spec(key: str, specs: Sequence[KeySpec], strategy: Strategy) -> KeySpec:
    """The dtype and shape of a merged key."""
    first = specs[0]
    if strategy.rule.chooses:
        return KeySpec(key=key, dtype=first.dtype, shape=first.shape)
    if strategy.function is not None:
        try:
            tried = strategy.function(
                [torch.zeros((1, *spec.shape), dtype=torch_dtype(spec.dtype)) for spec in specs]
            )
            return KeySpec(key=key, dtype=dtype_name(tried.dtype), shape=tuple(tried.shape[1:]))
        except Exception as error:
            raise MergeError(
                f"key {key!r}: its merge function failed on a row of zeros: {error!r}"
            ) from error
    dtype = result_dtype(strategy, promoted_dtype([torch_dtype(spec.dtype) for spec in specs]))
    shape = strategy.rule.shape([spec.shape for spec in specs])
    return KeySpec(key=key, dtype=dtype_name(dtype), shape=shape)
