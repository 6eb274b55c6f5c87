"""Numpy columns -> torch tensors over the same memory, for every dtype that travels."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from tutelage.consumers.strategies import torch_dtype
from tutelage.schemas.dtypes import DTYPES
from tutelage.schemas.record import Array

_CARRIERS = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}

# Kafka hands out immutable bytes, and torch warns once a process that it cannot mark a tensor so. These views are only ever copied
# from; the warning is spent here, before anybody's warnings-as-errors can trip over it.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(b"\0", np.uint8))


def raw_view(array: Array) -> torch.Tensor:
    """The array's elements as integers of their width: enough to copy them, whatever they mean."""
    carrier = _CARRIERS.get(array.dtype.itemsize)
    return torch.from_numpy(array if carrier is None else array.view(carrier))


def view(array: Array, dtype: str) -> torch.Tensor:
    """The array as a tensor of the dtype named."""
    found = torch_dtype(dtype)
    tensor = raw_view(array)
    return tensor if tensor.dtype == found else tensor.view(found)


def carrier_of(dtype: str) -> torch.dtype:
    """The dtype `raw_view` gives for arrays stored as `dtype`."""
    width = DTYPES[dtype].itemsize
    return {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}.get(width, torch.complex128)


def bytes_of(tensor: torch.Tensor) -> Array:
    """A tensor's elements in order, as a flat uint8 array; a view where it is contiguous and on the CPU."""
    name = str(tensor.dtype).removeprefix("torch.")
    return np.asarray(tensor.detach().cpu().contiguous().reshape(-1).view(carrier_of(name)).numpy().view(np.uint8))


def without_torch(value: Any) -> Any:
    """A control message with its torch tensors as numpy arrays."""
    if isinstance(value, torch.Tensor):
        storage = DTYPES[str(value.dtype).removeprefix("torch.")].storage
        return bytes_of(value).view(storage).reshape(value.shape)
    if isinstance(value, dict):
        return {key: without_torch(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_torch(item) for item in value]
    return value
