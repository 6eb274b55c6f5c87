"""The memory that merged batches will take, calculated from the lengths of ragged rows.

No I/O, threads or clocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tutelage.consumers.stages.align import Aligned
from tutelage.consumers.stages.batch_limit import batch_too_large
from tutelage.consumers.stages.key_plan import KeyPlan
from tutelage.consumers.stages.torch_view import torch_dtype
from tutelage.schemas.record import Array

# The most memory that ragged batches which are merged at once may take. Padding may multiply the
# bytes that were read.
_MERGED_AT_ONCE_BYTES = 64 << 20
_LENGTH_BYTES = 8
# A stored byte of a `SparseTarget` takes about so many in memory, with what decoding it takes.
_SPARSE_BYTES = 6


class BatchSizes:
    """Calculates the sizes of batches before they are merged.

    Args:
        plans: How each key is merged.
        batch_bytes: The memory that one batch may take.
        padded: Whether ragged rows are padded to the longest of their batch.
    """

    def __init__(self, plans: Sequence[KeyPlan], *, batch_bytes: int, padded: bool) -> None:
        self._limit = batch_bytes
        self._padded = padded
        self._ragged = [plan for plan in plans if _stored_ragged(plan)]
        self._dense = [plan for plan in plans if not _stored_ragged(plan)]
        self._dense_row_bytes = sum(map(_element_bytes, self._dense))

    def measure(self, aligned: Aligned, batch_size: int) -> tuple[int, int]:
        """Decide how many rows to merge at once.

        Args:
            aligned: The rows that are there.
            batch_size: Rows in a batch.

        Returns:
            The number of rows, which are whole batches, and the bytes of the merged batches.

        Raises:
            BatchTooLarge: The first batch alone exceeds the limit.
        """
        if not self._ragged:
            rows = min(batch_size, aligned.rows)
            if rows * self._dense_row_bytes > self._limit:
                raise self._error(0, rows, {})
            return aligned.rows, aligned.rows * self._dense_row_bytes
        starts = np.arange(0, aligned.rows, batch_size)
        counts = np.diff(starts, append=aligned.rows)
        longest = {plan.key: self._longest(plan, aligned, starts) for plan in self._ragged}
        # Floats do not overflow here, and rounding errors do not matter at this size.
        totals = counts * float(self._dense_row_bytes)
        for plan in self._ragged:
            totals += self._ragged_bytes(plan, longest[plan.key], counts)
        if totals[0] > self._limit:
            raise self._error(
                float(totals[0]),
                int(counts[0]),
                {key: int(each[0]) for key, each in longest.items()},
            )
        cumulated = np.cumsum(totals)
        fit = max(1, int(np.searchsorted(cumulated, _MERGED_AT_ONCE_BYTES, side="right")))
        # A later batch that is too large raises once it is the first one.
        large = np.flatnonzero(totals > self._limit)
        fit = min(fit, int(large[0])) if len(large) else fit
        return min(aligned.rows, fit * batch_size), int(cumulated[fit - 1])

    def _longest(self, plan: KeyPlan, aligned: Aligned, starts: Array) -> Array:
        """Per batch, the elements of its longest row; without padding, of all its rows."""
        # All teachers' rows have the same length, but not the same bytes where they are encoded.
        read = plan.sparse.teachers if plan.sparse is not None else 1
        if plan.strategy.name == "answered":
            # A row has elements at the teacher that answered it, and none at the others.
            read = len(plan.teachers)
        lengths = sum(
            np.concatenate(
                [piece.lengths for piece in aligned.shares[each].ragged(plan.key, 0, aligned.rows)]
            )
            for each in plan.teachers[:read]
        )
        found: Array = (np.maximum if self._pads(plan) else np.add).reduceat(lengths, starts)
        return found

    def _ragged_bytes(self, plan: KeyPlan, longest: Array, counts: Array) -> Array:
        """The bytes of a key's values and lengths in each batch."""
        rows = counts if self._pads(plan) else 1
        return longest * float(_element_bytes(plan)) * rows + float(_LENGTH_BYTES) * counts

    def _pads(self, plan: KeyPlan) -> bool:
        return self._padded and plan.sparse is None

    def _error(self, total: float, rows: int, longest: dict[str, int]) -> Exception:
        sizes = {plan.key: rows * _element_bytes(plan) for plan in self._dense}
        for plan in self._ragged:
            sizes[plan.key] = (
                longest[plan.key] * _element_bytes(plan) * (rows if self._pads(plan) else 1)
            )
        key = max(sizes, key=lambda each: sizes[each])
        return batch_too_large(
            key,
            rows=rows,
            longest=longest.get(key) if self._padded else None,
            nbytes=sizes[key],
            total=int(total) or sum(sizes.values()),
            limit=self._limit,
            enough=int(total) or sum(sizes.values()),
            padded=self._padded and key in longest,
        )


def _element_bytes(plan: KeyPlan) -> int:
    """The bytes of one row; for a ragged key, of one element."""
    if plan.sparse is not None:
        return _SPARSE_BYTES * math.prod(plan.result.stored.inner)
    return math.prod(plan.result.inner) * torch_dtype(plan.result.dtype).itemsize


def _stored_ragged(plan: KeyPlan) -> bool:
    return plan.result.stored.ragged if plan.sparse is not None else plan.result.ragged
