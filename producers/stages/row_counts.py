"""An input batch -> how many rows it holds, where that can be seen without doubt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

_SINGLE = (str, bytes, int, float, complex, bool, np.generic, type(None))


def rows_in(batch: Any) -> int | None:
    """How many rows an input batch holds; None if that cannot be seen.

    Tensors and arrays have their first dimension. A mapping has the count that fits all its values. A list or tuple may be a list of
    samples, with one row each, or a list of columns, with the rows of each; where both are possible and differ, nobody knows.
    """
    counts = _possible(batch)
    return next(iter(counts)) if len(counts) == 1 else None


def _possible(batch: Any) -> frozenset[int]:
    """The row counts that are possible; empty if nothing is known."""
    if isinstance(batch, torch.Tensor):
        return frozenset((batch.size(0),)) if batch.dim() else frozenset()
    if isinstance(batch, np.ndarray):
        return frozenset((batch.shape[0],)) if batch.ndim else frozenset()
    if isinstance(batch, Mapping):
        return _common(list(batch.values()))
    if isinstance(batch, (list, tuple)) and batch:
        columns, samples = _common(list(batch)), _as_samples(batch)
        if hasattr(batch, "_fields"):
            # A named tuple has named columns. Of torch's PackedSequence they are not columns of rows, and do not agree.
            return columns
        # Without columns that agree, items that have rows of their own may be anything.
        return (
            columns | samples
            if columns or not any(_possible(item) for item in batch)
            else frozenset()
        )
    return frozenset()


def _common(columns: list[Any]) -> frozenset[int]:
    found = [_possible(column) for column in columns]
    return frozenset.intersection(*found) if found else frozenset()


def _as_samples(batch: list[Any] | tuple[Any, ...]) -> frozenset[int]:
    """Its length, if its items can be samples: all of one kind."""
    alike = len({_kind(item) for item in batch}) == 1 or all(
        isinstance(item, _SINGLE) for item in batch
    )
    return frozenset((len(batch),)) if alike else frozenset()


def _kind(item: Any) -> Any:
    if isinstance(item, (torch.Tensor, np.ndarray)):
        return type(item), item.ndim, item.dtype
    return type(item)
