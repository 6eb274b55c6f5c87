"""Ragged keys: how their rows are given, and the memory operations for that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tutelage.consumers.torch_view import carrier_of
from tutelage.schemas.codec import as_bytes
from tutelage.schemas.record import Array


@dataclass(frozen=True, kw_only=True, slots=True)
class RaggedOptions:
    """How ragged keys are given: padded to the longest row of the batch, or as values one behind the other."""

    padded: bool = True
    pad_value: float = 0
    pad_left: bool = False


def padded(values: torch.Tensor, lengths: torch.Tensor, options: RaggedOptions) -> torch.Tensor:
    longest = int(lengths.max()) if len(lengths) else 0
    shape = (len(lengths), longest, *values.shape[1:])
    out = torch.full(shape, options.pad_value, dtype=values.dtype) if options.pad_value else _zeros(shape, values.dtype)
    places = torch.arange(longest)
    used = places >= longest - lengths[:, None] if options.pad_left else places < lengths[:, None]
    # As integers of their width: torch cannot index all dtypes that it can hold.
    carried(out)[used] = carried(values)
    return out


def _zeros(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    carrier = carrier_of(dtype)
    return torch.zeros(tuple(shape), dtype=carrier).view(dtype)


def carried(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(carrier_of(tensor.dtype))


def joined(arrays: Sequence[Array]) -> Array:
    """The arrays one behind the other, in memory of their own; as bytes, because numpy is slow with dtypes that are not its own."""
    joined = np.empty((sum(map(len, arrays)), *arrays[0].shape[1:]), arrays[0].dtype)
    if joined.size:
        np.concatenate([as_bytes(array) for array in arrays], out=as_bytes(joined))
    return joined
