"""Copies memory that its owner may overwrite: input batches, and what a model returns.

In a plain loop no batch is read while the next one is made, so inputs and models may reuse one
buffer for all batches. Here several batches are in flight at once, so reused memory is copied.
"""

from __future__ import annotations

import array
import enum
import types
from collections.abc import Iterator, Mapping
from datetime import date, time, timedelta, tzinfo
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePath
from typing import Any
from uuid import UUID

import numpy as np
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from tutelage.producers.stages.carried import plain
from tutelage.producers.stages.structures import PLAIN, rebuilt
from tutelage.producers.stages.surroundings import has_cuda
from tutelage.schemas.errors import SchemaError
from tutelage.schemas.record import Ragged

_FIXED: tuple[type, ...] = (
    *PLAIN, np.number, np.bool_, np.str_, np.bytes_, np.datetime64, np.timedelta64, np.dtype, torch.dtype, torch.device, torch.Size,
    range, enum.Enum, date, time, timedelta, tzinfo, Decimal, Fraction, PurePath, UUID, type, types.FunctionType,
)  # fmt: skip
_MANY_OBJECTS = 100_000
# How many tensor addresses are remembered before the first pruning, and at most. There are never
# more batches of large tensors in flight than that.
_MANY_LIVE = 1024
_MOST_LIVE = 1 << 16


class CannotCopy(Exception):
    """Raised for an object that cannot be copied because its content cannot be inspected."""


def owned(batch: Any) -> Any:
    """Return a copy of the batch that shares no mutable memory with it.

    Raises:
        CannotCopy: The batch holds an object whose content cannot be inspected.
    """
    kind = type(batch)
    if kind is torch.Tensor:
        return _tensor_copy(batch)
    if kind is dict:
        # A fast path for the usual kind of batch.
        return {
            key: _tensor_copy(item)
            if type(item) is torch.Tensor
            else rebuilt(item, _copied, anew=True)
            for key, item in batch.items()
        }
    return rebuilt(batch, _copied, anew=True)


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        try:
            return _tensor_copy(value)
        except Exception as error:  # a tensor subclass may raise anything
            raise CannotCopy from error
    if isinstance(value, np.ndarray):
        return _array_copy(value)
    if isinstance(value, _FIXED):
        return value
    if type(value) in (bytearray, array.array):
        return value[:]
    if type(value) in (set, frozenset):
        if all(isinstance(item, _FIXED) for item in value):
            return type(value)(value)
        raise CannotCopy
    if isinstance(value, Ragged):
        return Ragged(_copied(value.values), _copied(value.lengths))
    raise CannotCopy


def _tensor_copy(tensor: torch.Tensor) -> torch.Tensor:
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


def _array_copy(value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    made = value.copy(order="K")
    if value.dtype.hasobject:
        if value.dtype != np.dtype(object) or value.size > _MANY_OBJECTS:
            raise CannotCopy
        for index, item in enumerate(value.flat):
            made.flat[index] = rebuilt(item, _copied, anew=True)
    return made


# The first calls are watched for reused memory: until the calls or the returned bytes exceed these
# limits, but for at least _LEAST_CALLS calls.
_WATCHED_CALLS = 64
_WATCHED_BYTES = 16 << 20
_LEAST_CALLS = 8
# Smaller batches may be joined with others; `joining.py` uses the same limit.
_SMALL_BYTES = 128 << 10
# Larger GPU tensors are not watched: the GPU may lack the memory for a copy.
_LARGEST_WATCHED_ON_DEVICE = 256 << 20


class Returned:
    """Finds out whether one replica of a model reuses its output memory. Used by one thread.

    Tensors of the first calls are copied, and kept for comparison. If the same memory is returned
    with other content, or the model still holds memory that it filled in place, all later results
    are copied. Otherwise later tensors are used without a copy, and memory that the model refills
    later is an error. Values that are not plain tensors, and tensors whose memory torch did not
    allocate, are always copied.
    """

    def __init__(self) -> None:
        self._calls = 0
        self._bytes = 0
        self._copying = False
        self._settled = False
        self._small = False
        self._foreign = False
        # Address -> the tensor, its version, and the copy of it.
        self._watched: dict[int, tuple[torch.Tensor, int | None, torch.Tensor]] = {}
        self._watched_bytes = 0
        # Used after the first calls: address -> a weak reference to the storage, which outlives
        # each view of it, and the tensor's version.
        self._live: dict[int, tuple[Any, int | None]] = {}
        self._prune_at = _MANY_LIVE

    def of_calls(self, calls: Iterator[Any], count: int, *, owning: bool) -> list[Any]:
        """Return the results of a group of calls, in memory that later calls do not change.

        Args:
            calls: An iterator that calls the model once per item.
            count: The number of calls.
            owning: Whether results may share memory with the inputs, which may be overwritten.

        Returns:
            One result per call, in order.

        Raises:
            SchemaError: The model overwrote memory that it returned before.
        """
        if (
            self._settled
            and self._small
            and count > 1
            and not (self._copying or self._foreign or owning)
        ):
            group = list(calls)
            self._refuse_one_memory(group)
        else:
            group = [self._kept(knowledge, owning=owning) for knowledge in calls]
        self._small = all(map(_is_small, group[-1:]))
        return group

    def _refuse_one_memory(self, group: list[Any]) -> None:
        """Raise SchemaError if two results of the group share memory that was changed in place.

        Small results are joined, and so copied, at the end of their group; until then each needs
        its own memory. Tensors that were never changed in place (views of a table) may be returned
        twice. This runs for every small batch, so it must be fast.
        """
        try:
            for key in group[0]:
                places = {knowledge[key].data_ptr(): knowledge[key] for knowledge in group}
                without = places.pop(0, None)
                if without is not None:
                    # Empty tensors have address 0. So have tensors whose memory was freed: `plain`
                    # refuses those, since joining them would crash.
                    plain(without, f"key {key!r}")
                    continue
                if len(places) < len(group) and any(
                    _version(value) != 0 for value in places.values()
                ):
                    raise _filled_again(key, self._calls)
        except (AttributeError, KeyError, IndexError, RuntimeError, TypeError):
            # Not plain tensors. The transfer stage reports invalid values; valid ones are copied
            # from now on.
            self._copying = True

    def _kept(self, knowledge: Any, *, owning: bool) -> Any:
        if not isinstance(knowledge, Mapping):
            return knowledge
        self._calls += 1
        if (
            not self._settled
            and self._calls > _LEAST_CALLS
            and (self._calls > _WATCHED_CALLS or self._bytes > _WATCHED_BYTES)
        ):
            self._settle()
        changed = False
        made: dict[Any, Any] = {}
        for key, value in knowledge.items():
            if (
                type(value) is not torch.Tensor
                or value.is_nested
                or value.layout is not torch.strided
            ):
                kept = _owned_if_seen(value)
            elif not value.numel() or not value.data_ptr():
                # No elements, or memory that was freed.
                kept = value
            elif self._copying or owning or self._is_foreign(value):
                kept = _tensor_copy(value)
            elif not self._settled and (
                value.device.type == "cpu" or value.nbytes <= _LARGEST_WATCHED_ON_DEVICE
            ):
                kept = self._watch(value)
            else:
                self._refuse_refilled(key, value)
                kept = value
            made[key] = kept
            changed = changed or kept is not value
        return made if changed else knowledge

    def _settle(self) -> None:
        """End watching, and decide whether to copy all later results.

        A watched storage that is still alive can only be held by the model, which may refill it.
        """
        self._settled = True
        held = [(_weak_storage(tensor), version) for tensor, version, _ in self._watched.values()]
        self._watched.clear()
        # Tensors that were never changed in place, such as views of a table, are not buffers.
        self._copying = self._copying or any(
            version != 0 and not storage.expired() for storage, version in held
        )

    def _is_foreign(self, value: torch.Tensor) -> bool:
        """Whether torch did not allocate its memory (numpy, dlpack, a file).

        Changes to such memory do not change the tensor's version.
        """
        try:
            foreign = not value.untyped_storage().resizable()
        except RuntimeError:
            # It has no storage. The transfer stage reports the error.
            return False
        self._foreign = self._foreign or foreign
        return foreign

    def _watch(self, value: torch.Tensor) -> torch.Tensor:
        copied = _tensor_copy(value)
        address, version = value.data_ptr(), _version(value)
        before = self._watched.pop(address, None)
        if before is not None:
            tensor, old_version, content = before
            self._watched_bytes -= tensor.nbytes
            if (
                version is None
                or version != old_version
                or tensor.shape != value.shape
                or not _same(content, copied)
            ):
                # The memory was overwritten, or that cannot be ruled out.
                self._copying = True
                self._watched.clear()
                return copied
        self._watched[address] = (value, version, copied)
        self._watched_bytes += value.nbytes
        self._bytes += value.nbytes
        while self._watched_bytes > _WATCHED_BYTES and len(self._watched) > 1:
            tensor, _, _ = self._watched.pop(next(iter(self._watched)))
            self._watched_bytes -= tensor.nbytes
        return copied

    def _refuse_refilled(self, key: Any, value: torch.Tensor) -> None:
        address, version = value.data_ptr(), _version(value)
        before = self._live.get(address)
        if before is not None and version != before[1] and not before[0].expired():
            raise _filled_again(key, self._calls)
        self._live[address] = (_weak_storage(value), version)
        if len(self._live) > self._prune_at:
            self._live = {at: one for at, one in self._live.items() if not one[0].expired()}
            while len(self._live) > _MOST_LIVE:
                del self._live[next(iter(self._live))]
            # Prune again only once the size has doubled, so that not every call searches the table.
            self._prune_at = max(_MANY_LIVE, 2 * len(self._live))


def _weak_storage(tensor: torch.Tensor) -> Any:
    """A weak reference to a tensor's storage, as torch.multiprocessing uses it."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]  # torch's own gap


def _is_small(knowledge: Any) -> bool:
    """Whether it is a dict of plain tensors that is small enough to be joined with others."""
    if type(knowledge) is not dict:
        return False
    nbytes = 0
    for value in knowledge.values():
        if type(value) is not torch.Tensor or value.layout is not torch.strided or value.is_nested:
            return False
        nbytes += value.nbytes
    return nbytes <= _SMALL_BYTES


def _filled_again(key: Any, calls: int) -> SchemaError:
    return SchemaError(
        f"key {key!r}: the model returned memory that it returned before and has changed since, while the earlier values were still to be "
        f"written (it did not in its first {calls} calls); return new tensors each time: tensor.clone()"
    )


def _version(tensor: torch.Tensor) -> int | None:
    """How often the tensor was changed in place.

    None for inference tensors, for which torch does not count it.
    """
    return None if tensor.is_inference() else tensor._version


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    # Compares bytes, so that NaN equals itself.
    try:
        return torch.equal(
            one.contiguous().view(-1).view(torch.uint8),
            other.contiguous().view(-1).view(torch.uint8),
        )
    except (RuntimeError, TypeError):
        return False


def _owned_if_seen(value: Any) -> Any:
    try:
        return owned(value)
    except CannotCopy:
        # It cannot be sent. The transfer stage reports the error.
        return value
