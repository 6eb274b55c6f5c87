"""A batch -> a copy of it that shares no mutable memory with it.

In a plain loop a batch is done before the next one is made, so inputs and models may reuse one
buffer for all batches. Here several batches are in flight at once, so reused memory is copied.
"""

from __future__ import annotations

import array
import enum
import types
from datetime import date, time, timedelta, tzinfo
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePath
from typing import Any
from uuid import UUID

import numpy as np
import torch

from tutelage.producers.stages.structures import PLAIN, map_structure
from tutelage.producers.stages.thread_context import has_cuda
from tutelage.schemas.record import Ragged

# Immutable types, which need no copy.
_IMMUTABLE: tuple[type, ...] = (
    *PLAIN, np.number, np.bool_, np.str_, np.bytes_, np.datetime64, np.timedelta64, np.dtype,
    torch.dtype, torch.device, torch.Size, range, enum.Enum, date, time, timedelta, tzinfo, Decimal,
    Fraction, PurePath, UUID, type, types.FunctionType,
)  # fmt: skip
# Larger arrays of objects are not copied: that takes a Python call per object.
_MANY_OBJECTS = 100_000


class CannotCopy(Exception):
    """Raised for an object that cannot be copied because its content cannot be inspected."""


def owned(batch: Any) -> Any:
    """Return a copy of the batch that shares no mutable memory with it.

    Args:
        batch: Tensors, arrays and other objects, in any structure that `structures.py` knows.

    Raises:
        CannotCopy: The batch holds an object whose content cannot be inspected.
    """
    kind = type(batch)
    if kind is torch.Tensor:
        return copy_tensor(batch)
    if kind is dict:
        # A fast path for the usual kind of batch.
        return {
            key: copy_tensor(item)
            if type(item) is torch.Tensor
            else map_structure(item, _copy_item, copy_containers=True)
            for key, item in batch.items()
        }
    return map_structure(batch, _copy_item, copy_containers=True)


def owned_if_possible(value: Any) -> Any:
    """Return `owned(value)`, or the value itself if it cannot be copied."""
    try:
        return owned(value)
    except CannotCopy:
        return value


def _copy_item(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        try:
            return copy_tensor(value)
        except Exception as error:  # a tensor subclass may raise anything
            raise CannotCopy from error
    if isinstance(value, np.ndarray):
        return _copy_array(value)
    if isinstance(value, _IMMUTABLE):
        return value
    if type(value) in (bytearray, array.array):
        return value[:]
    if type(value) in (set, frozenset):
        if all(isinstance(item, _IMMUTABLE) for item in value):
            return type(value)(value)
        raise CannotCopy
    if isinstance(value, Ragged):
        return Ragged(_copy_item(value.values), _copy_item(value.lengths))
    raise CannotCopy


def copy_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy with the same values, device, layout and `requires_grad`.

    Expanded tensors stay expanded, and pinned ones pinned.
    """
    if (
        tensor.layout is torch.strided
        and tensor.is_contiguous()
        and not tensor.requires_grad
        and not has_cuda()
    ):
        return tensor.clone()
    if tensor.requires_grad and tensor.is_leaf:
        return tensor.detach().clone().requires_grad_()
    if (
        tensor.layout is torch.strided
        and not tensor.is_nested
        and not tensor.is_contiguous()
        and 0 in tensor.stride()
    ):
        # Expanded dimensions (stride 0) stay expanded: only one row of them is copied.
        once = tuple(slice(0, 1) if not stride else slice(None) for stride in tensor.stride())
        return tensor[once].clone().expand(tensor.shape)
    if tensor.device.type == "cpu" and has_cuda() and tensor.is_pinned():
        return torch.empty_like(tensor, pin_memory=True).copy_(tensor)
    return tensor.clone()


def _copy_array(value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    copied = value.copy(order="K")
    if value.dtype.hasobject:
        if value.dtype != np.dtype(object) or value.size > _MANY_OBJECTS:
            raise CannotCopy
        for index, item in enumerate(value.flat):
            copied.flat[index] = map_structure(item, _copy_item, copy_containers=True)
    return copied
