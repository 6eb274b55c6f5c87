"""Numpy columns -> torch tensors over the same memory, for every dtype that travels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tutelage.consumers.stages.strategies import torch_dtype
from tutelage.schemas.dtypes import DTYPES
from tutelage.schemas.record import Array

_CARRIERS = {
    1: (np.uint8, torch.uint8),
    2: (np.int16, torch.int16),
    4: (np.int32, torch.int32),
    8: (np.int64, torch.int64),
}
_WIDEST = (np.complex128, torch.complex128)

# Kafka hands out immutable bytes, and torch warns once a process that it cannot mark a tensor so. These views are only ever copied
# from; the warning is spent here, before anybody's warnings-as-errors can trip over it.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(b"\0", np.uint8))


class WireView:
    """How one key's columns are looked at: made once a key, used for every piece of every batch.

    `inner` is the shape behind the rows, `dtype` torch's dtype on the wire, `carrier` one of the same width that can be copied
    whatever the elements mean.
    """

    __slots__ = ("_storage", "carrier", "dtype", "inner")

    def __init__(self, dtype: str, inner: Sequence[int] = ()) -> None:
        self._storage: Any
        self._storage, self.carrier = _CARRIERS.get(DTYPES[dtype].itemsize, _WIDEST)
        self.dtype = torch_dtype(dtype)
        self.inner = tuple(inner)

    def raw(self, array: Array) -> torch.Tensor:
        """The array's elements in the carrier."""
        if self.carrier is torch.complex128 and array.ctypes.data % 16:
            # Records are not aligned, and torch's complex128 must be: anything else is a crash.
            array = array.copy()
        return torch.from_numpy(array.view(self._storage))

    def view(self, array: Array) -> torch.Tensor:
        """The array as a tensor of its dtype."""
        return self.raw(array).view(self.dtype)


def carrier_of(dtype: torch.dtype) -> torch.dtype:
    """An integer dtype of the same width (complex128 for itself): enough to move elements, whatever they mean."""
    return _CARRIERS.get(dtype.itemsize, _WIDEST)[1]


def carried(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in a dtype of the same width that can be copied whatever the elements mean."""
    return tensor.view(carrier_of(tensor.dtype))


def bytes_of(tensor: torch.Tensor) -> Array:
    """A tensor's elements in order, as a flat uint8 array; a view where it is contiguous and on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return np.asarray(flat.view(carrier_of(tensor.dtype)).numpy().view(np.uint8))


def without_torch(value: Any) -> Any:
    """A control message with its torch tensors as numpy arrays."""
    if isinstance(value, torch.Tensor):
        storage = DTYPES[str(value.dtype).removeprefix("torch.")].numpy_dtype
        return bytes_of(value).view(storage).reshape(value.shape)
    if isinstance(value, dict):
        return {key: without_torch(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_torch(item) for item in value]
    return value
