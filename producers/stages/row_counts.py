"""An input batch -> its number of rows, if that is unambiguous."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

_SINGLE = (str, bytes, int, float, complex, bool, np.generic, type(None))


def rows_in(batch: Any) -> int | None:
    """Return how many rows an input batch holds; None if that is ambiguous or unknown.

    A tensor or array has its first dimension as rows. A mapping has the count that all its values
    have in common. A list or tuple may be a list of samples, with one row each, or a list of
    columns, each with all the rows; if both are possible and differ, the count is ambiguous.
    """
    counts = _possible_counts(batch)
    return next(iter(counts)) if len(counts) == 1 else None


def _possible_counts(batch: Any) -> frozenset[int]:
    """The possible row counts; empty if nothing is known."""
    if isinstance(batch, torch.Tensor):
        return frozenset((batch.size(0),)) if batch.dim() else frozenset()
    if isinstance(batch, np.ndarray):
        return frozenset((batch.shape[0],)) if batch.ndim else frozenset()
    if isinstance(batch, Mapping):
        return _common_counts(list(batch.values()))
    if isinstance(batch, (list, tuple)) and batch:
        columns, samples = _common_counts(list(batch)), _count_as_samples(batch)
        if hasattr(batch, "_fields"):
            # A named tuple has named columns. Those of torch's PackedSequence are not columns of
            # rows, and their counts do not agree.
            return columns
        # If the items have rows, but the counts do not agree, the list may be anything.
        return (
            columns | samples
            if columns or not any(_possible_counts(item) for item in batch)
            else frozenset()
        )
    return frozenset()


def _common_counts(columns: list[Any]) -> frozenset[int]:
    """The row counts that are possible for all columns."""
    counts = [_possible_counts(column) for column in columns]
    return frozenset.intersection(*counts) if counts else frozenset()


def _count_as_samples(batch: list[Any] | tuple[Any, ...]) -> frozenset[int]:
    """The length of the list, if its items can be samples: all of the same kind."""
    alike = len({_kind(item) for item in batch}) == 1 or all(
        isinstance(item, _SINGLE) for item in batch
    )
    return frozenset((len(batch),)) if alike else frozenset()


def _kind(item: Any) -> Any:
    if isinstance(item, (torch.Tensor, np.ndarray)):
        return type(item), item.ndim, item.dtype
    return type(item)
