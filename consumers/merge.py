"""Aligned rows of several teachers -> batches of torch tensors.

Many batches are merged at once and then cut, so that the cost of a batch is that of cutting; what one teacher alone has is not touched
at all. Pure but for the memory it fills: no I/O, threads or clocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat

import numpy as np
import torch

from tutelage.consumers.align import Aligned, Share
from tutelage.consumers.buffers import Buffers
from tutelage.consumers.strategies import (
    MergeStrategy,
    Strategy,
    accumulate,
    accumulator,
    begin,
    finish,
    parsed,
    promoted,
    refuse_incalculable,
    result_dtype,
    torch_dtype,
)
from tutelage.consumers.torch_view import WireView, carrier_of
from tutelage.schemas.codec import as_bytes
from tutelage.schemas.errors import LengthMismatch, MergeError, SampleMismatch
from tutelage.schemas.record import Array, Description, KeySpec

Batch = dict[str, torch.Tensor]
LENGTHS_SUFFIX = ".lengths"
_CUT_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class RaggedOptions:
    """How ragged keys are given: padded to the longest row of the batch, or as values one behind the other."""

    padded: bool = True
    pad_value: float = 0
    pad_left: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class _Key:
    """One key of the result: who has it, and how it comes about."""

    key: str
    teachers: tuple[int, ...]
    specs: tuple[KeySpec, ...]
    strategy: Strategy
    result: KeySpec = field(repr=False)
    views: tuple[WireView, ...] = field(repr=False)
    dtypes: tuple[torch.dtype, ...] = field(repr=False)


class Batches:
    """Merged batches; iterated over, each becomes a dict of key -> tensor [rows, ...], a view of what they were merged in.

    They are cut by the dozen, when it is their turn: Python's garbage collector looks at every tensor that lives for a while, and then,
    once they are many, at all else that lives.
    """

    def __init__(self, columns: Mapping[str, torch.Tensor | list[torch.Tensor]], rows: int, batch_size: int) -> None:
        self._columns = columns
        self.rows = rows
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        keys = list(self._columns)
        for first in range(0, len(self), _CUT_AT_ONCE):
            cuts = [self._cut(column, first) for column in self._columns.values()]
            yield from map(dict, map(zip, repeat(keys), zip(*cuts, strict=True)))

    def _cut(self, column: torch.Tensor | list[torch.Tensor], first: int) -> Sequence[torch.Tensor]:
        """A column's next batches from batch `first` on."""
        if isinstance(column, list):
            return column[first : first + _CUT_AT_ONCE]
        return column[first * self.batch_size : (first + _CUT_AT_ONCE) * self.batch_size].split_with_sizes(
            [
                min(self.batch_size, self.rows - at * self.batch_size)
                for at in range(first, min(len(self), first + _CUT_AT_ONCE))
            ]
        )


class Merge:
    """Makes batches of what the teachers wrote.

    Guarantee: a key one teacher has arrives bit for bit; a key several have is their strategy's result, calculated from decoded
    values and independent of how they were cut; anything that cannot be merged so is a MergeError before the first batch.
    """

    def __init__(
        self,
        names: Sequence[str],
        descriptions: Sequence[Description],
        strategies: Mapping[str, MergeStrategy],
        *,
        sample_id: str | None = None,
        ragged: RaggedOptions | None = None,
        pin_memory: bool = False,
    ) -> None:
        self._names = list(names)
        self._sample_id = sample_id
        self._ragged = ragged or RaggedOptions()
        self._pin_memory = pin_memory
        self._pools: dict[tuple[str, torch.dtype], Buffers] = {}
        self._keys = [
            _planned(key, names, descriptions, strategies, sample_id)
            for key in dict.fromkeys(key for description in descriptions for key in description)
        ]
        known = {plan.key for plan in self._keys}
        for key in (*strategies, *([sample_id] if sample_id is not None else [])):
            if key not in known:
                raise MergeError(f"no teacher has key {key!r}; they have {', '.join(map(repr, sorted(known)))}")
        for plan in self._keys:
            if plan.result.ragged and plan.key + LENGTHS_SUFFIX in known:
                raise MergeError(
                    f"the lengths of key {plan.key!r} would be {plan.key + LENGTHS_SUFFIX!r}, which is a key already"
                )

    @property
    def passes_through(self) -> bool:
        """Whether batches are what the teachers wrote, as it is, and nothing is calculated or copied."""
        return not self._pin_memory and all(
            plan.strategy.name == "first" and plan.specs[0].wire == plan.result.dtype and not plan.result.ragged
            for plan in self._keys
            if plan.key != self._sample_id
        )

    @property
    def description(self) -> Description:
        """What a batch holds: the merged keys, in the order the teachers were registered and wrote them."""
        return Description(tuple(plan.result for plan in self._keys))

    def batches(self, aligned: Aligned, batch_size: int) -> Batches:
        """The merged batches of aligned rows; only the last may have fewer rows than `batch_size`."""
        columns: dict[str, torch.Tensor | list[torch.Tensor]] = {}
        for plan in self._keys:
            shares = [aligned.shares[teacher] for teacher in plan.teachers]
            if plan.key == self._sample_id:
                self._compare(plan, [share.dense(plan.key) for share in shares], aligned.first_row)
            if plan.result.ragged:
                columns[plan.key], columns[plan.key + LENGTHS_SUFFIX] = self._merge_ragged(plan, shares, aligned, batch_size)
            elif plan.strategy.name == "callable":
                # A function may look at the whole batch, so it gets just that.
                cuts = [range(start, min(start + batch_size, aligned.rows)) for start in range(0, aligned.rows, batch_size)]
                arrays = [share.dense(plan.key) for share in shares]
                columns[plan.key] = [self._merged(plan, [array[cut.start : cut.stop] for array in arrays]) for cut in cuts]
            else:
                columns[plan.key] = self._merged(plan, [share.dense(plan.key) for share in shares])
        return Batches(columns, aligned.rows, batch_size)

    def _memory(self, key: str, shape: Sequence[int], dtype: torch.dtype, *, pinned: bool) -> torch.Tensor:
        """Memory for a key's merged rows, used again once nobody holds a batch of them; pinned memory is torch's own to reuse."""
        nbytes = math.prod(shape) * dtype.itemsize
        if pinned or not nbytes:
            return torch.empty(tuple(shape), dtype=dtype, pin_memory=pinned)
        pool = self._pools.setdefault((key, dtype), Buffers())
        return torch.from_numpy(pool.take(nbytes)).view(dtype).reshape(tuple(shape))

    def _merged(self, plan: _Key, arrays: Sequence[Array]) -> torch.Tensor:
        """One key's tensor [rows, *inner] of each teacher's array, which is not changed."""
        strategy, views, length = plan.strategy, plan.views, len(arrays[0])
        if strategy.name == "first":
            decoded = views[0].view(arrays[0])
            return self._given(decoded if decoded.dtype == plan.dtypes[0] else decoded.to(plan.dtypes[0]))
        dtype = promoted(plan.dtypes)
        if strategy.elementwise:
            wide, result = accumulator(strategy, dtype), result_dtype(strategy, dtype)
            # Only the last tensor is the user's; where there is none between, it is allocated as they want it.
            pinned = self._pin_memory and wide == result
            total = self._memory(plan.key, (length, *views[0].inner), wide, pinned=pinned).copy_(views[0].view(arrays[0]))
            begin(strategy, total)
            for teacher in range(1, len(arrays)):
                accumulate(strategy, total, views[teacher].view(arrays[teacher]).to(wide), teacher)
            return self._given(finish(strategy, total, len(arrays), result, plan.key))
        own = strategy.name == "callable"
        tensors = [
            # A function may write into what it is given: that must not be memory that is used again.
            viewed.view(array).to(theirs if own else dtype, copy=own)
            for array, viewed, theirs in zip(arrays, views, plan.dtypes, strict=True)
        ]
        return self._given(_combined(plan, tensors))

    def _given(self, tensor: torch.Tensor) -> torch.Tensor:
        # Torch's own block, of which batches are views: it is given out again only after the copies that torch made of them.
        return tensor.pin_memory() if self._pin_memory and not tensor.is_pinned() else tensor

    def _merge_ragged(
        self, plan: _Key, shares: list[Share], aligned: Aligned, batch_size: int
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Values and lengths of each batch."""
        used = shares[:1] if plan.strategy.name == "first" else shares
        all_values: list[torch.Tensor] = []
        all_lengths: list[torch.Tensor] = []
        for start in range(0, aligned.rows, batch_size):
            stop = min(start + batch_size, aligned.rows)
            pieces = [share.ragged(plan.key, start, stop) for share in used]
            lengths = np.concatenate([piece.lengths for piece in pieces[0]])
            for teacher, others in enumerate(pieces[1:], start=1):
                theirs = np.concatenate([piece.lengths for piece in others])
                if not np.array_equal(lengths, theirs):
                    row = int(np.flatnonzero(lengths != theirs)[0])
                    raise LengthMismatch(
                        f"key {plan.key!r}, row {aligned.first_row + start + row}: {self._names[plan.teachers[0]]} has {lengths[row]} "
                        f"elements, {self._names[plan.teachers[teacher]]} {theirs[row]}; rows of different length cannot be merged"
                    )
            # Of their own, in one piece: these rows lie in records, which must not be kept alive by a batch.
            values = self._merged(plan, [_joined([piece.values for piece in one]) for one in pieces])
            counts = torch.from_numpy(lengths)
            all_values.append(self._given(_padded(values, counts, self._ragged)) if self._ragged.padded else values)
            all_lengths.append(self._given(counts))
        return all_values, all_lengths

    def _compare(self, plan: _Key, ids: Sequence[Array], first_row: int) -> None:
        for teacher, theirs in enumerate(ids[1:], start=1):
            differs = ids[0] != theirs
            if differs.any():
                row = int(np.argwhere(differs)[0][0])
                raise SampleMismatch(
                    f"row {first_row + row}: {plan.key!r} is {ids[0][row]} of {self._names[plan.teachers[0]]} but {theirs[row]} of "
                    f"{self._names[plan.teachers[teacher]]}; the teachers did not read the same inputs in the same order"
                )


def _planned(
    key: str,
    names: Sequence[str],
    descriptions: Sequence[Description],
    strategies: Mapping[str, MergeStrategy],
    sample_id: str | None,
) -> _Key:
    teachers = tuple(index for index, description in enumerate(descriptions) if key in description)
    specs = tuple(descriptions[index][key] for index in teachers)
    who = " and ".join(f"{names[index]} ({descriptions[index][key]})" for index in teachers)
    asked = strategies.get(key)
    if len(teachers) > 1 and asked is None and key != sample_id:
        raise MergeError(
            f"key {key!r} comes from {who}: say how to merge it, such as merge={{{key!r}: 'mean'}} (--merge {key}=mean)"
        )
    strategy = parsed(key, asked) if asked is not None else Strategy(name="first")
    if len(teachers) == 1 and strategy.name != "callable":
        # What one teacher alone has passes through, whatever was asked for keys several have.
        strategy = Strategy(name="first")
    if strategy.weights and len(strategy.weights) != len(teachers):
        raise MergeError(f"key {key!r} comes from {len(teachers)} teachers, but has {len(strategy.weights)} weights")
    if len(teachers) > 1:
        refuse_incalculable(key, strategy, [spec.dtype for spec in specs])
    shapes = {spec.shape for spec in specs}
    alike = {spec.shape[:-1] for spec in specs} if strategy.name == "concat" else shapes
    if strategy.name not in ("first", "callable") and len(alike) > 1:
        raise MergeError(f"key {key!r} comes from {who}: {strategy.name} needs rows of the same shape")
    if strategy.name == "concat" and not all(spec.inner for spec in specs):
        raise MergeError(
            f"key {key!r} comes from {who}: rows without a dimension of their own cannot be concatenated; use stack"
        )
    if key == sample_id and len({(spec.dtype, spec.shape) for spec in specs}) > 1:
        raise MergeError(f"the sample id {key!r} comes from {who}: it must have one dtype and shape")
    if key == sample_id and specs[0].ragged:
        raise MergeError(f"the sample id {key!r} is ragged; an id has one shape")
    if specs[0].ragged and strategy.name in ("stack", "callable"):
        raise MergeError(f"key {key!r} is ragged: {strategy.name} is not defined for it")
    return _Key(
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
    dtype = result_dtype(strategy, promoted([torch_dtype(spec.dtype) for spec in specs]))
    shape = first.shape
    if strategy.name == "stack":
        shape = (len(specs), *shape)
    elif strategy.name == "concat":
        shape = (*shape[:-1], sum(spec.shape[-1] for spec in specs))
    elif strategy.function is not None:
        try:
            tried = strategy.function([torch.zeros((1, *spec.shape), dtype=torch_dtype(spec.dtype)) for spec in specs])
            dtype, shape = tried.dtype, tuple(tried.shape[1:])
        except Exception as error:
            raise MergeError(f"key {key!r}: its merge function failed on a row of zeros: {error!r}") from error
    return KeySpec(key=key, dtype=str(dtype).removeprefix("torch."), shape=tuple(shape))


def _combined(plan: _Key, tensors: list[torch.Tensor]) -> torch.Tensor:
    if plan.strategy.name == "stack":
        return torch.stack([_carried(tensor) for tensor in tensors], dim=1).view(tensors[0].dtype)
    if plan.strategy.name == "concat":
        return torch.cat([_carried(tensor) for tensor in tensors], dim=-1).view(tensors[0].dtype)
    assert plan.strategy.function is not None, "the other strategies are elementwise"
    merged = plan.strategy.function(tensors)
    wanted = (str(merged.dtype).removeprefix("torch."), tuple(merged.shape))
    promise = (plan.result.dtype, (len(tensors[0]), *plan.result.shape))
    if wanted != promise:
        raise MergeError(f"key {plan.key!r}: its merge function returned {wanted}, not {promise} as it did for a row of zeros")
    return merged


def _padded(values: torch.Tensor, lengths: torch.Tensor, options: RaggedOptions) -> torch.Tensor:
    longest = int(lengths.max()) if len(lengths) else 0
    shape = (len(lengths), longest, *values.shape[1:])
    out = torch.full(shape, options.pad_value, dtype=values.dtype) if options.pad_value else _zeros(shape, values.dtype)
    places = torch.arange(longest)
    used = places >= longest - lengths[:, None] if options.pad_left else places < lengths[:, None]
    # As integers of their width: torch cannot index all dtypes that it can hold.
    _carried(out)[used] = _carried(values)
    return out


def _zeros(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    carrier = carrier_of(dtype)
    return torch.zeros(tuple(shape), dtype=carrier).view(dtype)


def _carried(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(carrier_of(tensor.dtype))


def _joined(arrays: Sequence[Array]) -> Array:
    """The arrays one behind the other, in memory of their own; as bytes, because numpy is slow with dtypes that are not its own."""
    joined = np.empty((sum(map(len, arrays)), *arrays[0].shape[1:]), arrays[0].dtype)
    if joined.size:
        np.concatenate([as_bytes(array) for array in arrays], out=as_bytes(joined))
    return joined
