"""Query records -> the batch that the model gets: what a student would get of the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tutelage.producers.stages.host_arrays import can_be_viewed, view_dtype
from tutelage.schemas.errors import SchemaError
from tutelage.schemas.record import Array, Column, Description, KeySpec


def model_batch(
    queries: Sequence[Mapping[str, Column]],
    description: Description,
    *,
    pad_value: float,
    pad_left: bool,
) -> dict[str, torch.Tensor]:
    """Return the rows of some queries as one batch.

    Args:
        queries: For each query, key -> the rows that the model gets.
        description: What they hold.
        pad_value: The number that ragged rows are padded with.
        pad_left: Whether they are padded on the left.

    Returns:
        Key -> tensor `[rows, ...]`. A ragged key has the shape `[rows, longest, ...]`, and its
        lengths are under `KEY.lengths`, int64 `[rows]`.
    """
    batch: dict[str, torch.Tensor] = {}
    for spec in description.specs:
        columns: list[Any] = [query[spec.key] for query in queries]
        if not spec.ragged:
            batch[spec.key] = _tensor(np.concatenate(columns), spec)
            continue
        values = np.concatenate([column.values for column in columns])
        lengths = np.concatenate([column.lengths for column in columns]).astype(np.int64)
        batch[spec.key] = _tensor(_padded(values, lengths, pad_value, left=pad_left), spec)
        batch[f"{spec.key}.lengths"] = torch.from_numpy(lengths)
    return batch


def check_plain(description: Description, where: str) -> None:
    """Raise SchemaError if a model cannot be given the keys of these queries.

    Args:
        description: What the queries hold.
        where: Their topic, for the message.
    """
    for spec in description.specs:
        if spec.encoding is not None:
            raise SchemaError(
                f"{where}: key {spec.key!r} is {spec}; queries are read as they were written, so "
                "their keys must have no encoding"
            )


def _padded(values: Array, lengths: Array, pad_value: float, *, left: bool) -> Array:
    rows, longest = len(lengths), int(lengths.max(initial=0))
    padded = np.full((rows, longest, *values.shape[1:]), pad_value, values.dtype)
    places = np.arange(longest)[None, :]
    shorter = (longest - lengths)[:, None]
    padded[places >= shorter if left else places < lengths[:, None]] = values
    return padded


def _tensor(values: Array, spec: KeySpec) -> torch.Tensor:
    """The values as a tensor of the key's own dtype, in memory of its own."""
    travels: Any = getattr(torch, spec.wire, None)
    if not isinstance(travels, torch.dtype) or not can_be_viewed(travels):
        raise SchemaError(f"key {spec.key!r} is {spec}, with which torch cannot compute")
    own, dtype = np.ascontiguousarray(values), getattr(torch, spec.dtype)
    if view_dtype(travels) is not None:
        # Torch takes no array of such a dtype, but the same bytes as integers.
        return torch.from_numpy(own.view(f"i{travels.itemsize}")).view(travels).to(dtype)
    return torch.from_numpy(own).to(dtype)
