"""Numpy columns -> torch tensors over the same memory, and back, for every dtype that travels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tutelage.schemas.dtypes import DTYPES
from tutelage.schemas.encoded_rows import decode_int8
from tutelage.schemas.errors import CorruptData, MergeError
from tutelage.schemas.record import Array

# Bytes of an element -> numpy's and torch's dtype in which elements of this size are moved.
_BIT_DTYPES = {
    1: (np.uint8, torch.uint8),
    2: (np.int16, torch.int16),
    4: (np.int32, torch.int32),
    8: (np.int64, torch.int64),
}
_WIDEST = (np.complex128, torch.complex128)

# Kafka's messages are immutable bytes, and torch warns, once per process, that a tensor cannot be
# read-only. These views are only copied from. The warning is triggered here, where it is ignored,
# so that it cannot fail a program that turns warnings into errors.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(b"\0", np.uint8))


def torch_dtype(name: str) -> torch.dtype:
    """Return torch's dtype of that name. MergeError if this torch has none."""
    dtype: Any = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise MergeError(f"this torch ({torch.__version__}) has no dtype {name}; a newer one has")
    return dtype


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a torch dtype, without `torch.`."""
    return str(dtype).removeprefix("torch.")


class ColumnView:
    """Views the arrays of one key as tensors. Made once per key, and used for all of its arrays.

    Args:
        wire: The wire dtype.
        inner: The shape of one row.
    """

    __slots__ = ("_numpy_dtype", "_torch_dtype", "dtype", "inner")

    def __init__(self, wire: str, inner: Sequence[int] = ()) -> None:
        self._numpy_dtype: Any
        self._numpy_dtype, self._torch_dtype = _BIT_DTYPES.get(DTYPES[wire].itemsize, _WIDEST)
        self.dtype = torch_dtype(wire)
        self.inner = tuple(inner)

    def tensor(self, array: Array) -> torch.Tensor:
        """The array as a tensor of the wire dtype, over the same memory."""
        if self._torch_dtype is torch.complex128 and array.ctypes.data % 16:
            # Records are not aligned, but torch crashes on an unaligned complex128.
            array = array.copy()
        return torch.from_numpy(array.view(self._numpy_dtype)).view(self.dtype)


class Int8View:
    """Decodes the arrays of one key that travels as int8 with a scale per vector.

    Args:
        key: The key, for messages.
        inner: The shape of one row, or of an element of a ragged row.
    """

    __slots__ = ("_key", "dtype", "inner")

    def __init__(self, key: str, inner: Sequence[int]) -> None:
        self._key = key
        self.dtype = torch.float32
        self.inner = tuple(inner)

    def tensor(self, array: Array) -> torch.Tensor:
        """The decoded array, float32, in new memory."""
        try:
            return torch.from_numpy(decode_int8(array))
        except ValueError as error:
            raise CorruptData(
                f"key {self._key!r}: {error}; its teacher wrote it wrongly, although its checksum "
                "is right"
            ) from error


def bits_dtype(dtype: torch.dtype) -> torch.dtype:
    """An integer dtype of the same size (complex128 for itself), which torch can copy and index.

    Torch can hold dtypes for which it does not implement these operations.
    """
    return _BIT_DTYPES.get(dtype.itemsize, _WIDEST)[1]


def bit_view(tensor: torch.Tensor) -> torch.Tensor:
    """A view of the tensor in its `bits_dtype`."""
    return tensor.view(bits_dtype(tensor.dtype))


def tensor_bytes(tensor: torch.Tensor) -> Array:
    """A tensor's elements as a flat uint8 array; a view if it is contiguous and on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return np.asarray(bit_view(flat).numpy().view(np.uint8))


def tensors_to_arrays(value: Any) -> Any:
    """A control message with numpy arrays in place of its torch tensors."""
    if isinstance(value, torch.Tensor):
        storage = DTYPES[dtype_name(value.dtype)].numpy_dtype
        return tensor_bytes(value).view(storage).reshape(value.shape)
    if isinstance(value, dict):
        return {key: tensors_to_arrays(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [tensors_to_arrays(item) for item in value]
    return value
