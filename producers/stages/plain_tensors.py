"""A value that a model returned for a key -> a plain tensor or array whose memory holds its values.

Torch and numpy have many types that look like tensors but hold more, less or none of the values
that they show. Each is an error that names the key and says what to do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor

from tutelage.schemas.dtypes import DType, dtype_from_array, dtype_from_name
from tutelage.schemas.errors import SchemaError
from tutelage.schemas.record import Array

# numpy's array types that are only another view of the same values.
_PLAIN_ARRAYS = (np.ndarray, np.matrix, np.memmap, np.recarray)


def to_plain(value: Any, where: str) -> tuple[Any, DType]:
    """Return a value as a dense torch.Tensor or np.ndarray, and its dtype. Does not copy tensors.

    Args:
        value: What the model returned.
        where: The key, for the error.

    Raises:
        SchemaError: The value is not a plain tensor or array of a known dtype.
    """
    if isinstance(value, torch.Tensor):
        tensor = _plain_tensor(value, where)
        return tensor, dtype_from_name(str(tensor.dtype).removeprefix("torch."), where)
    if isinstance(value, np.ndarray):
        array = _plain_array(value, where)
        dtype = dtype_from_array(array, where)
        return array.astype(dtype.numpy_dtype, copy=False), dtype
    raise SchemaError(f"{where} {_why_not_tensor(value)}")


def _plain_tensor(tensor: torch.Tensor, where: str) -> torch.Tensor:
    why = _why_not_plain(tensor)
    if why is not None:
        raise SchemaError(f"{where} {why}")
    if type(tensor) is not torch.Tensor:
        tensor = tensor.as_subclass(torch.Tensor)
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.untyped_storage().nbytes() < tensor.nbytes and tensor.is_contiguous():
        raise SchemaError(
            f"{where} is a tensor whose memory has been freed, as that of sharded parameters is; "
            "gather it or clone it first"
        )
    return tensor


def _why_not_plain(tensor: torch.Tensor) -> str | None:
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return (
            "is a tensor inside a transform of torch.func (vmap, grad, ...); return what the "
            "transform returns"
        )
    if isinstance(tensor, FakeTensor):
        return "is a FakeTensor, which has a shape but no values; run the model on real tensors"
    if hasattr(tensor, "full_tensor"):
        return (
            "is a DTensor, which is spread over several processes; return tensor.full_tensor(), "
            "which all of the processes must call"
        )
    if (
        type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__
        and not tensor.is_nested
    ):
        return (
            f"is a {type(tensor).__name__}, a tensor subclass that stores its values in its own "
            "way; return a plain tensor made from it, and what else it holds (a mask, a scale) as "
            "a key of its own"
        )
    if tensor.device.type == "meta":
        return "is on the meta device: it has a shape but no values; run the model on a real device"
    if tensor.is_quantized:
        return (
            "is a quantized tensor; return tensor.dequantize(), or tensor.int_repr() and its scale "
            "as keys of their own"
        )
    if tensor.layout is not torch.strided:
        return f"is a tensor of layout {tensor.layout}, which cannot be sent; make it dense"
    return None


def _plain_array(array: np.ndarray[Any, Any], where: str) -> Array:
    if isinstance(array, np.ma.MaskedArray):
        raise SchemaError(
            f"{where} is a numpy masked array, and its mask would be lost; fill it, "
            "array.filled(value), and return the mask as a key of its own"
        )
    if type(array) not in _PLAIN_ARRAYS:
        raise SchemaError(
            f"{where} is a {type(array).__name__}, an array subclass that may hold more than its "
            "values; return np.asarray(value) if the values are all there is"
        )
    return np.asarray(array)


def _why_not_tensor(value: Any) -> str:
    kind = type(value).__name__
    advice = (
        "return only the keys that are to be written: "
        "lambda batch: {'logits': model(**batch).logits}"
    )
    if value is None:
        return f"is None; {advice}"
    items = ""
    if isinstance(value, (list, tuple)):
        items = f" of {type(value[0]).__name__ if value else 'nothing'}"
    return f"is a {kind}{items}; knowledge is torch tensors or numpy arrays; {advice}"
