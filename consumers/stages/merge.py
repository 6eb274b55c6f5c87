"""Aligned rows of several teachers -> batches of torch tensors.

Many batches are merged at once and then cut, so that the cost of a batch is that of cutting; what one teacher alone has is not touched
at all. Pure but for the memory it fills: no I/O, threads or clocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from tutelage.consumers.stages.align import Aligned, Share
from tutelage.consumers.stages.batches import Batch, Batches
from tutelage.consumers.stages.merged_sizes import Sizes
from tutelage.consumers.stages.planning import KeyPlan, planned, refuse_missing_ids
from tutelage.consumers.stages.ragged import RaggedFormat, joined, padded
from tutelage.consumers.stages.strategies import (
    MergeStrategy,
    accumulate,
    accumulator,
    begin,
    finish,
    promoted,
    refuse_inexact,
    result_dtype,
)
from tutelage.consumers.stages.torch_view import carried
from tutelage.schemas.errors import LengthMismatch, MergeError, SampleMismatch
from tutelage.schemas.limits import DEFAULT_LIMITS
from tutelage.schemas.record import Array, Description

__all__ = ["LENGTHS_SUFFIX", "Batch", "Batches", "Merge", "RaggedFormat"]

LENGTHS_SUFFIX = ".lengths"


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
        ragged: RaggedFormat | None = None,
        pin_memory: bool = False,
        batch_bytes: int = DEFAULT_LIMITS.batch_bytes,
    ) -> None:
        self._names = list(names)
        self._sample_id = sample_id
        self._ragged = ragged or RaggedFormat()
        self._pin_memory = pin_memory
        #: The number in its pass of the first row that is merged, for errors.
        self._first_row = 0
        if sample_id is not None:
            refuse_missing_ids(sample_id, names, descriptions)
        self._keys = [
            planned(key, names, descriptions, strategies, sample_id)
            for key in dict.fromkeys(key for description in descriptions for key in description)
        ]
        known = {plan.key for plan in self._keys}
        for key in (*strategies, *([sample_id] if sample_id is not None else [])):
            if key not in known:
                raise MergeError(
                    f"no teacher has key {key!r}; they have {', '.join(map(repr, sorted(known)))}"
                )
        self._ragged.refuse_unfit(
            {plan.key: plan.result.dtype for plan in self._keys if plan.result.ragged}, list(known)
        )
        self._sizes = Sizes(self._keys, batch_bytes=batch_bytes, padded=self._ragged.padded)
        for plan in self._keys:
            if plan.result.ragged and plan.key + LENGTHS_SUFFIX in known:
                raise MergeError(
                    f"the lengths of key {plan.key!r} would be {plan.key + LENGTHS_SUFFIX!r}, which is a key already"
                )

    @property
    def passes_through(self) -> bool:
        """Whether batches are what the teachers wrote, as it is, and nothing is calculated or copied."""
        return not self._pin_memory and all(
            plan.strategy.name == "first"
            and plan.specs[0].wire == plan.result.dtype
            and not plan.result.ragged
            for plan in self._keys
            if plan.key != self._sample_id
        )

    @property
    def description(self) -> Description:
        """What a batch holds: the merged keys, in the order the teachers were registered and wrote them."""
        return Description(tuple(plan.result for plan in self._keys))

    def measured(self, aligned: Aligned, batch_size: int) -> tuple[int, int]:
        """How many of the rows to merge at once, whole batches of them, and the bytes that come of it.

        Raises:
            BatchTooLarge: The first batch alone would take more than a batch may.
        """
        return self._sizes.measured(aligned, batch_size)

    def batches(self, aligned: Aligned, batch_size: int) -> Batches:
        """The merged batches of aligned rows; only the last may have fewer rows than `batch_size`."""
        columns: dict[str, torch.Tensor | list[torch.Tensor]] = {}
        self._first_row = aligned.first_row
        for plan in self._keys:
            shares = [aligned.shares[teacher] for teacher in plan.teachers]
            if plan.key == self._sample_id:
                self._compare(plan, [share.dense(plan.key) for share in shares], aligned.first_row)
            if plan.result.ragged:
                columns[plan.key], columns[plan.key + LENGTHS_SUFFIX] = self._merge_ragged(
                    plan, shares, aligned, batch_size
                )
            elif plan.strategy.name == "callable":
                # A function may look at the whole batch, so it gets just that.
                cuts = [
                    range(start, min(start + batch_size, aligned.rows))
                    for start in range(0, aligned.rows, batch_size)
                ]
                arrays = [share.dense(plan.key) for share in shares]
                columns[plan.key] = [
                    self._merged(plan, [array[cut.start : cut.stop] for array in arrays])
                    for cut in cuts
                ]
            else:
                columns[plan.key] = self._merged(plan, [share.dense(plan.key) for share in shares])
        return Batches(columns, aligned.rows, batch_size, pinned=self._pin_memory)

    def _merged(self, plan: KeyPlan, arrays: Sequence[Array]) -> torch.Tensor:
        """One key's tensor [rows, *inner] of each teacher's array, which is not changed."""
        strategy, views, length = plan.strategy, plan.views, len(arrays[0])
        # The elements of ragged rows have no row number of their own.
        first_row = None if plan.result.ragged else self._first_row
        if strategy.name == "first":
            decoded = views[0].view(arrays[0])
            return self._given(
                decoded if decoded.dtype == plan.dtypes[0] else decoded.to(plan.dtypes[0])
            )
        values = [viewed.view(array) for viewed, array in zip(views, arrays, strict=True)]
        if strategy.name == "callable":
            # A function may write into what it is given.
            own = [
                each.to(theirs, copy=True) for each, theirs in zip(values, plan.dtypes, strict=True)
            ]
            return self._given(_combined(plan, own))
        dtype = promoted(plan.dtypes)
        if strategy.elementwise:
            wide, result = accumulator(strategy, dtype), result_dtype(strategy, dtype)
            # Only the last tensor is the user's; where there is none between, it is allocated as they want it.
            pinned = self._pin_memory and wide == result
            total = torch.empty((length, *views[0].inner), dtype=wide, pin_memory=pinned).copy_(
                values[0]
            )
            begin(strategy, total)
            for teacher in range(1, len(values)):
                accumulate(strategy, total, values[teacher].to(wide), teacher)
            return self._given(
                finish(strategy, total, values, result, key=plan.key, first_row=first_row)
            )
        refuse_inexact(strategy, values, dtype, key=plan.key, first_row=first_row)
        return self._given(_combined(plan, [each.to(dtype) for each in values]))

    def _given(self, tensor: torch.Tensor) -> torch.Tensor:
        # Torch's own block, of which batches are views: it is given out again only after the copies that torch made of them.
        return tensor.pin_memory() if self._pin_memory and not tensor.is_pinned() else tensor

    def _merge_ragged(
        self, plan: KeyPlan, shares: list[Share], aligned: Aligned, batch_size: int
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
            values = self._merged(plan, [joined([piece.values for piece in one]) for one in pieces])
            counts = torch.from_numpy(lengths)
            all_values.append(
                self._given(
                    padded(
                        values, counts, self._ragged.value_of(plan.key), left=self._ragged.pad_left
                    )
                )
                if self._ragged.padded
                else values
            )
            all_lengths.append(self._given(counts))
        return all_values, all_lengths

    def _compare(self, plan: KeyPlan, ids: Sequence[Array], first_row: int) -> None:
        for teacher, theirs in enumerate(ids[1:], start=1):
            differs = ids[0] != theirs
            if differs.any():
                row = int(np.argwhere(differs)[0][0])
                raise SampleMismatch(
                    f"row {first_row + row}: {plan.key!r} is {ids[0][row]} of {self._names[plan.teachers[0]]} but {theirs[row]} of "
                    f"{self._names[plan.teachers[teacher]]}; the teachers did not read the same inputs in the same order"
                )


def _combined(plan: KeyPlan, tensors: list[torch.Tensor]) -> torch.Tensor:
    if plan.strategy.name == "stack":
        return torch.stack([carried(tensor) for tensor in tensors], dim=1).view(tensors[0].dtype)
    if plan.strategy.name == "concat":
        return torch.cat([carried(tensor) for tensor in tensors], dim=-1).view(tensors[0].dtype)
    assert plan.strategy.function is not None, "the other strategies are elementwise"
    merged = plan.strategy.function(tensors)
    wanted = (str(merged.dtype).removeprefix("torch."), tuple(merged.shape))
    promise = (plan.result.dtype, (len(tensors[0]), *plan.result.shape))
    if wanted != promise:
        raise MergeError(
            f"key {plan.key!r}: its merge function returned {wanted}, not {promise} as it did for a row of zeros"
        )
    return merged
