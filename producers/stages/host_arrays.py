"""Torch tensors -> numpy arrays in host memory, without a copy if they are there already."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tutelage.schemas.dtypes import dtype_from_name
from tutelage.schemas.record import Array

# The dtypes that torch can convert to numpy.
_KNOWN_TO_NUMPY = frozenset(
    (
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.float32,
        torch.float64,
    )
)
# Other dtypes are viewed as integers of the same width, which numpy then views as its own dtype.
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def can_be_viewed(dtype: torch.dtype) -> bool:
    """Whether host tensors of this dtype can be viewed as numpy arrays."""
    return dtype in _KNOWN_TO_NUMPY or dtype.itemsize in _INTEGERS


def view_dtype(dtype: torch.dtype) -> torch.dtype | None:
    """The integer dtype to view a tensor as before converting it; None if none is needed."""
    return None if dtype in _KNOWN_TO_NUMPY else _INTEGERS.get(dtype.itemsize)


def to_host(values: Any, stream: Any) -> Any:
    """Return a contiguous tensor in host memory, or begin to copy it there.

    Args:
        values: A tensor; anything else is returned unchanged.
        stream: A CUDA stream to copy in, into pinned memory. The copy is complete once the stream
            has run. None copies and waits.
    """
    if not isinstance(values, torch.Tensor):
        return values
    if values.requires_grad or values.is_conj() or values.is_neg() or not values.is_contiguous():
        values = values.detach().resolve_conj().resolve_neg().contiguous()
    if values.device.type == "cpu":
        return values
    if stream is None:
        return values.cpu()
    host = torch.empty(values.shape, dtype=values.dtype, device="cpu", pin_memory=True)
    stream.wait_stream(torch.cuda.current_stream(values.device))
    with torch.cuda.stream(stream):
        host.copy_(values, non_blocking=True)
    # The allocator must not give the source's memory to the next forward pass before the copy is
    # done.
    values.record_stream(stream)
    return host


def to_numpy(values: Any, storage: np.dtype[Any]) -> Array:
    """Return a contiguous host tensor as a numpy view.

    Args:
        values: A tensor; an array is returned unchanged.
        storage: The numpy dtype of the view, for dtypes that torch cannot convert.
    """
    if not isinstance(values, torch.Tensor):
        return np.asarray(values)
    integers = view_dtype(values.dtype)
    return np.asarray(
        values.numpy() if integers is None else values.view(integers).numpy().view(storage)
    )


def without_torch(value: Any) -> Any:
    """Return a control message with numpy arrays in place of its torch tensors."""
    if isinstance(value, torch.Tensor):
        dtype = dtype_from_name(str(value.dtype).removeprefix("torch."), "control message")
        return to_numpy(to_host(value, None).reshape(-1), dtype.numpy_dtype).reshape(value.shape)
    if isinstance(value, dict):
        return {key: without_torch(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_torch(item) for item in value]
    return value
