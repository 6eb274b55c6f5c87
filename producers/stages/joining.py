"""Knowledge of many small batches -> of one large one, so that what each batch costs is little more than the model's call.

Gives up (None) on anything out of the ordinary: batch by batch, `transfer.py` says what that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tutelage.schemas.record import Description

# Larger batches are worth their own way: joining would copy them.
_SMALL_BYTES = 128 << 10


def joined(group: Sequence[Any], promised: Description) -> tuple[dict[str, Any], list[int]] | None:
    """Key -> the batches' rows one behind the other, on their device, and the rows of each batch.

    None unless every batch is a dict of just the promised keys, each a plain tensor or array of one dtype with as many rows as the
    batch's others, and small.
    """
    if not all(type(knowledge) is dict and len(knowledge) == len(promised) for knowledge in group):
        return None
    columns: dict[str, Any] = {}
    counts: list[int] | None = None
    try:
        first = [group[0][spec.key] for spec in promised.specs]
        if sum(value.nbytes for value in first) > _SMALL_BYTES:
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
                # Which torch.cat would pass over.
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
