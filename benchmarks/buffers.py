"""A shape's batches as bytes or numpy arrays, and one reused set of tensors to read them into."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.knowledge import Shape

Batch = dict[str, torch.Tensor]


def target_of(shape: Shape) -> Batch:
    """A batch of empty tensors to read into."""
    return {key: torch.empty_like(value) for key, value in shape.batch(0).items()}


def bytes_of(batch: Batch) -> dict[str, np.ndarray[Any, Any]]:
    """The memory of each tensor, as uint8 [bytes]."""
    return {key: value.view(-1).view(torch.uint8).numpy() for key, value in batch.items()}


def numpy_batches(shape: Shape) -> list[Batch]:
    """The batches in dtypes that numpy has."""
    return [_in_numpy_dtypes(batch) for batch in shape.batches()]


def numpy_target(shape: Shape) -> Batch:
    """The target in dtypes that numpy has."""
    return _in_numpy_dtypes(target_of(shape))


def safe_name(key: str) -> str:
    """A key as a name that every format allows."""
    return "k" + "".join(char if char.isalnum() else "_" for char in key)


def _in_numpy_dtypes(batch: Batch) -> Batch:
    return {
        key: value.view(torch.int16) if value.dtype == torch.bfloat16 else value
        for key, value in batch.items()
    }
