"""The knowledge of several small batches -> that of one large batch.

Each small batch then costs little more than the call of the model. Anything unusual gives None:
`transfer.py` then takes the batches one by one and reports what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tutelage.schemas.record import Description

#: Larger batches are not joined, because joining copies them.
SMALL_BATCH_BYTES = 128 << 10


def join_batches(
    group: Sequence[Any], promised: Description
) -> tuple[dict[str, Any], list[int]] | None:
    """Concatenate the rows of several batches, on their device.

    Args:
        group: What the model returned for each batch.
        promised: The description that every batch must match.

    Returns:
        Key -> the rows of all batches `[rows, ...]`, and the number of rows of each batch. None
        unless the first batch is small, and every batch is a dict of exactly the promised keys,
        each a plain tensor or array of one dtype with as many rows as the batch's other keys.
    """
    if not all(type(knowledge) is dict and len(knowledge) == len(promised) for knowledge in group):
        return None
    columns: dict[str, Any] = {}
    counts: list[int] | None = None
    try:
        first = [group[0][spec.key] for spec in promised.specs]
        if sum(value.nbytes for value in first) > SMALL_BATCH_BYTES:
            return None
        for spec, value in zip(promised.specs, first, strict=True):
            values = [knowledge[spec.key] for knowledge in group]
            kind = type(value)
            if (
                spec.ragged
                or kind not in (torch.Tensor, np.ndarray)
                or len({(type(one), one.dtype) for one in values}) > 1
            ):
                return None
            rows = [one.shape[0] for one in values]
            if 0 in rows and any(one.shape[1:] != value.shape[1:] for one in values):
                # torch.cat ignores empty tensors, whatever their shape.
                return None
            if counts is None:
                counts = rows
            elif counts != rows:
                return None
            column = torch.cat(values) if kind is torch.Tensor else np.concatenate(values)
            if column.shape[0] != sum(rows):
                return None
            columns[spec.key] = column
    except (AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError):
        return None
    return (columns, counts) if counts is not None else None
