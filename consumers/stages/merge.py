"""Aligned rows of several teachers -> merged batches of torch tensors.

Many batches are merged at once and then cut, so that a batch costs little more than the cut. Keys
of one teacher are passed on without a copy. No I/O, threads or clocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tutelage.consumers.sparse_target import SparseTarget
from tutelage.consumers.stages.align import Aligned, Share
from tutelage.consumers.stages.answered_rows import AnsweredRows, Answers, says_status
from tutelage.consumers.stages.batch_sizes import BatchSizes
from tutelage.consumers.stages.batches import Batch, Batches
from tutelage.consumers.stages.compare import check_ids, check_lengths, check_same
from tutelage.consumers.stages.fold import (
    accumulator_dtype,
    check_exact,
    finish,
    fold,
    promoted_dtype,
    result_dtype,
)
from tutelage.consumers.stages.key_plan import KeyPlan, check_all_have_ids, plan_key
from tutelage.consumers.stages.ragged import RaggedFormat, concatenate, pad_rows
from tutelage.consumers.stages.sparse_merge import SparseKey
from tutelage.consumers.stages.strategies import MergeStrategy
from tutelage.consumers.stages.torch_view import dtype_name, torch_dtype
from tutelage.schemas.errors import MergeError
from tutelage.schemas.limits import DEFAULT_LIMITS
from tutelage.schemas.queries import QUERY_STATUS
from tutelage.schemas.record import Array, Description

__all__ = ["LENGTHS_SUFFIX", "Batch", "Batches", "Merge", "RaggedFormat"]

LENGTHS_SUFFIX = ".lengths"


class Merge:
    """Merges the same rows of all teachers.

    Guarantee: a key of one teacher arrives bit for bit. A key of several is the result of its
    strategy, calculated from decoded values and independent of how rows were cut. Keys that cannot
    be merged raise MergeError before the first batch.

    Args:
        names: The teachers' names, for messages.
        descriptions: What each teacher writes.
        strategies: Key -> strategy, for keys of several teachers.
        sample_id: A key of every teacher, whose values must be equal row by row.
        ragged: The format of ragged keys.
        skips_unanswered: Whether rows of queries that no teacher answered are left out of their
            batches. If not, they are an error.
        pin_memory: Whether to give batches in pinned memory.
        batch_bytes: The memory that one batch may take.

    Raises:
        MergeError: The teachers' keys cannot be merged as asked.
    """

    def __init__(
        self,
        names: Sequence[str],
        descriptions: Sequence[Description],
        strategies: Mapping[str, MergeStrategy],
        *,
        sample_id: str | None = None,
        ragged: RaggedFormat | None = None,
        skips_unanswered: bool = False,
        pin_memory: bool = False,
        batch_bytes: int = DEFAULT_LIMITS.batch_bytes,
    ) -> None:
        self._names = list(names)
        self._sample_id = sample_id
        self._ragged = ragged or RaggedFormat()
        self._pin_memory = pin_memory
        #: The number in its pass of the first row that is merged, for messages.
        self._first_row = 0
        if sample_id is not None:
            check_all_have_ids(sample_id, names, descriptions)
        self._answered = AnsweredRows(names, descriptions, skips=skips_unanswered)
        self._plans = [
            plan_key(
                key,
                names,
                descriptions,
                strategies,
                sample_id,
                pad_left=self._ragged.pad_left,
            )
            for key in dict.fromkeys(
                key
                for description in descriptions
                for key in description
                if key != QUERY_STATUS or not says_status(description)
            )
        ]
        known = {plan.key for plan in self._plans}
        for key in (*strategies, *([sample_id] if sample_id is not None else [])):
            if key not in known:
                raise MergeError(
                    f"no teacher has key {key!r}; they have {', '.join(map(repr, sorted(known)))}"
                )
        self._ragged.check_pad_values(
            {
                plan.key: plan.result.dtype
                for plan in self._plans
                if plan.result.ragged and plan.sparse is None
            },
            list(known),
        )
        self._sizes = BatchSizes(self._plans, batch_bytes=batch_bytes, padded=self._ragged.padded)
        for plan in self._plans:
            if plan.result.ragged and plan.key + LENGTHS_SUFFIX in known:
                raise MergeError(
                    f"the lengths of key {plan.key!r} would be {plan.key + LENGTHS_SUFFIX!r}, "
                    "which is a key already"
                )

    @property
    def passes_through(self) -> bool:
        """Whether batches are what the teachers wrote, and nothing is calculated or copied."""
        return not self._pin_memory and all(
            plan.strategy.name == "first"
            and plan.sparse is None
            and plan.specs[0].wire == plan.result.dtype
            and not plan.result.ragged
            for plan in self._plans
            if plan.key != self._sample_id
        )

    @property
    def description(self) -> Description:
        """The merged keys, in the order in which teachers were registered and wrote them."""
        return Description(tuple(plan.result for plan in self._plans))

    def plan_of(self, key: str) -> KeyPlan | None:
        """How a key is merged; None if no teacher has it."""
        return next((plan for plan in self._plans if plan.key == key), None)

    def _owners(self, plan: KeyPlan) -> list[str]:
        return [self._names[teacher] for teacher in plan.teachers]

    def measure(self, aligned: Aligned, batch_size: int) -> tuple[int, int]:
        """Decide how many of the rows to merge at once, as `BatchSizes.measure` says."""
        return self._sizes.measure(aligned, batch_size)

    def batches(self, aligned: Aligned, batch_size: int) -> Batches:
        """Merge rows.

        Args:
            aligned: The rows of each teacher.
            batch_size: Rows in a batch. Only the last batch may have fewer.

        Returns:
            The batches.

        Raises:
            SampleMismatch: The sample ids of a row differ.
            LengthMismatch: A ragged row has different lengths.
            QueryUnanswered: A row's query was not answered.
            MergeError: A result does not fit its dtype.
        """
        answers = self._answered.look(aligned)
        if answers is None or answers.kept is None:
            columns = self._columns(aligned, batch_size, answers)
            return Batches(columns, aligned.rows, batch_size, pinned=self._pin_memory)
        parts = [
            # All rows of a part are one batch.
            Batches(
                self._columns(part, max(1, part.rows), of_part),
                part.rows,
                max(1, part.rows),
                pinned=self._pin_memory,
            )
            for part, of_part in answers.parts(aligned, batch_size)
        ]
        whole = [next(iter(part)) for part in parts]
        thinned = {key: [batch[key] for batch in whole] for key in whole[0]}
        return Batches(thinned, aligned.rows, batch_size, pinned=self._pin_memory)

    def _columns(
        self, aligned: Aligned, batch_size: int, answers: Answers | None
    ) -> dict[str, torch.Tensor | list[Any]]:
        """Merge rows key by key: a tensor of all rows, or a list with one value per batch."""
        columns: dict[str, torch.Tensor | list[Any]] = {}
        self._first_row = aligned.first_row
        for plan in self._plans:
            shares = [aligned.shares[teacher] for teacher in plan.teachers]
            if answers is not None and plan.key != self._sample_id:
                shares = answers.shares(plan, aligned)
            if plan.key == self._sample_id:
                ids = [share.dense(plan.key) for share in shares]
                check_ids(plan.key, self._owners(plan), ids, aligned.first_row)
            if plan.strategy.name == "same":
                stored = [share.stored(plan.key, 0, aligned.rows) for share in shares]
                check_same(plan.key, self._owners(plan), stored, aligned.first_row)
            if plan.strategy.rule.chooses:
                # The others' may be of another kind.
                shares = shares[:1]
            if plan.sparse is not None:
                targets = self._sparse_targets(plan.sparse, plan.key, shares, aligned, batch_size)
                columns[plan.key] = targets
                if plan.sparse.ragged:
                    columns[plan.key + LENGTHS_SUFFIX] = [each.lengths for each in targets]
            elif plan.result.ragged:
                columns[plan.key], columns[plan.key + LENGTHS_SUFFIX] = self._merge_ragged(
                    plan, shares, aligned, batch_size
                )
            elif plan.strategy.name == "callable":
                # A function may depend on the whole batch, so it is called batch by batch.
                arrays = [share.dense(plan.key) for share in shares]
                columns[plan.key] = [
                    self._merged(plan, [array[start : start + batch_size] for array in arrays])
                    if aligned.rows
                    # It may not be defined for no rows, and must not fail on one rank alone.
                    else torch.empty((0, *plan.result.shape), dtype=torch_dtype(plan.result.dtype))
                    for start in _starts(aligned, batch_size)
                ]
            else:
                columns[plan.key] = self._merged(plan, [share.dense(plan.key) for share in shares])
        return columns

    def _sparse_targets(
        self,
        sparse: SparseKey,
        key: str,
        shares: Sequence[Share],
        aligned: Aligned,
        batch_size: int,
    ) -> list[SparseTarget]:
        """Decode and merge a key of which a few entries are known; a target for each batch."""
        targets = []
        for start in _starts(aligned, batch_size):
            stop = min(start + batch_size, aligned.rows)
            columns = [share.stored(key, start, stop) for share in shares[: sparse.teachers]]
            target = sparse.target(columns, aligned.first_row + start)
            targets.append(target.pin_memory() if self._pin_memory else target)
        return targets

    def _merged(self, plan: KeyPlan, arrays: Sequence[Array]) -> torch.Tensor:
        """Merge one key's arrays, one per teacher, to `[rows, *inner]`. They are not changed."""
        strategy, views, length = plan.strategy, plan.views, len(arrays[0])
        # The elements of ragged rows have no row number of their own.
        first_row = None if plan.result.ragged else self._first_row
        if strategy.rule.chooses:
            decoded = views[0].tensor(arrays[0])
            return self._pinned(
                decoded if decoded.dtype == plan.dtypes[0] else decoded.to(plan.dtypes[0])
            )
        values = [view.tensor(array) for view, array in zip(views, arrays, strict=True)]
        if strategy.name == "callable":
            # The function may write into its arguments.
            own = [
                each.to(dtype, copy=True) for each, dtype in zip(values, plan.dtypes, strict=True)
            ]
            return self._pinned(_called(plan, own))
        dtype = promoted_dtype(plan.dtypes)
        result = result_dtype(strategy, dtype)
        if strategy.rule.arrange is not None:
            check_exact(strategy, values, dtype, key=plan.key, first_row=first_row)
            return self._pinned(strategy.rule.arrange([each.to(dtype) for each in values]))
        wide = accumulator_dtype(strategy, dtype)
        # Pin the accumulator only when it is returned as it is.
        pinned = self._pin_memory and wide == result
        total = torch.empty((length, *views[0].inner), dtype=wide, pin_memory=pinned)
        fold(strategy, total.copy_(values[0]), values)
        return self._pinned(
            finish(strategy, total, values, result, key=plan.key, first_row=first_row)
        )

    def _pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor, in pinned memory if the student requested it."""
        # Torch's own block of pinned memory, of which batches are parts: torch reuses it only after
        # the copies that it made of them.
        return tensor.pin_memory() if self._pin_memory and not tensor.is_pinned() else tensor

    def _merge_ragged(
        self, plan: KeyPlan, shares: list[Share], aligned: Aligned, batch_size: int
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Merge the values of a ragged key; returns the values and lengths of each batch."""
        all_values: list[torch.Tensor] = []
        all_lengths: list[torch.Tensor] = []
        for start in _starts(aligned, batch_size):
            stop = min(start + batch_size, aligned.rows)
            pieces = [share.ragged(plan.key, start, stop) for share in shares]
            lengths = np.concatenate([piece.lengths for piece in pieces[0]])
            theirs = [np.concatenate([piece.lengths for piece in others]) for others in pieces[1:]]
            first_row = aligned.first_row + start
            check_lengths(plan.key, self._owners(plan), [lengths, *theirs], first_row)
            # Concatenated in new memory, because a batch must not keep the records in memory.
            values = self._merged(
                plan, [concatenate([piece.values for piece in one]) for one in pieces]
            )
            counts = torch.from_numpy(lengths)
            if self._ragged.padded:
                pad_value = self._ragged.value_of(plan.key)
                values = pad_rows(values, counts, pad_value, left=self._ragged.pad_left)
                values = self._pinned(values)
            all_values.append(values)
            all_lengths.append(self._pinned(counts))
        return all_values, all_lengths


def _starts(aligned: Aligned, batch_size: int) -> range:
    """The first row of each batch; a rank's batch without rows has one too."""
    return range(0, max(1, aligned.rows), batch_size)


def _called(plan: KeyPlan, tensors: list[torch.Tensor]) -> torch.Tensor:
    """The result of a user's function."""
    assert plan.strategy.function is not None, "the strategy is a function"
    merged = plan.strategy.function(tensors)
    returned = (dtype_name(merged.dtype), tuple(merged.shape))
    promised = (plan.result.dtype, (len(tensors[0]), *plan.result.shape))
    if returned != promised:
        raise MergeError(
            f"key {plan.key!r}: its merge function returned {returned}, not {promised} as it did "
            "for a row of zeros"
        )
    return merged
