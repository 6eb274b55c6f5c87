"""Memory that others may fill again -> memory of our own.

In a plain loop nobody reads a batch while the next one is made, so inputs and models may use one buffer for all of them. Here several
batches are under way at once: what may change is copied first.
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
# So many addresses are remembered at first, and at most: more batches of large tensors are never under way at once.
_MANY_LIVE = 1024
_MOST_LIVE = 1 << 16


class CannotCopy(Exception):
    """An object whose content cannot be seen, so that nobody knows what to copy."""


def owned(batch: Any) -> Any:
    """A copy of the batch that shares no memory that can change with it. CannotCopy where its content cannot be seen."""
    kind = type(batch)
    if kind is torch.Tensor:
        return _tensor_copy(batch)
    if kind is dict:
        # The usual batch, without the general way's cost.
        return {
            key: _tensor_copy(item) if type(item) is torch.Tensor else rebuilt(item, _copied, anew=True)
            for key, item in batch.items()
        }
    return rebuilt(batch, _copied, anew=True)


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        try:
            return _tensor_copy(value)
        except Exception as error:  # a tensor of a class that does things in its own way
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
    if tensor.layout is torch.strided and tensor.is_contiguous() and not tensor.requires_grad and not has_cuda():
        return tensor.clone()
    if tensor.requires_grad and tensor.is_leaf:
        return tensor.detach().clone().requires_grad_()
    if tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_contiguous() and 0 in tensor.stride():
        # Rows that repeat (`expand`) stay one row.
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


# A model's memory that comes back shows within so many calls, or so many bytes of what it returned (and some calls at least).
_WATCHED_CALLS = 64
_WATCHED_BYTES = 16 << 20
_LEAST_CALLS = 8
# Up to this size a batch's tensors may be joined with others' (`joining.py`).
_SMALL_BYTES = 128 << 10
# Beyond this a copy beside the original may be more than a GPU has left.
_LARGEST_WATCHED_ON_DEVICE = 256 << 20


class Returned:
    """What one replica of a model returned, call by call; used by one thread.

    The first calls' tensors are copied, and kept to compare with. If their memory comes back with other content, or the model still holds
    memory that it filled, everything is copied from then on. If not, tensors are used where they are, and memory that the model holds and
    fills again later is an error. Anything but plain tensors, and tensors on memory that is not torch's, are always copied.
    """

    def __init__(self) -> None:
        self._calls = 0
        self._bytes = 0
        self._copying = False
        self._settled = False
        self._small = False
        self._foreign = False
        # By address: the tensor, its version, and the copy that was made of it.
        self._watched: dict[int, tuple[torch.Tensor, int | None, torch.Tensor]] = {}
        self._watched_bytes = 0
        # After the first calls, by address: the storage, which outlives each view of it, and the tensor's version.
        self._live: dict[int, tuple[Any, int | None]] = {}
        self._prune_at = _MANY_LIVE

    def of_calls(self, calls: Iterator[Any], count: int, *, owning: bool) -> list[Any]:
        """What a group of calls returns, in memory that the calls behind do not change.

        Args:
            calls: Makes a call each time it is asked for its result.
            count: How many there are.
            owning: Whether the results may lie in the inputs' memory, which somebody else fills again.
        """
        if self._settled and self._small and count > 1 and not (self._copying or self._foreign or owning):
            group = list(calls)
            self._refuse_one_memory(group)
        else:
            group = [self._kept(knowledge, owning=owning) for knowledge in calls]
        self._small = all(map(_is_small, group[-1:]))
        return group

    def _refuse_one_memory(self, group: list[Any]) -> None:
        """Small results are joined, and so copied, when their group is done: until then each must have memory of its own.

        Asked for every small batch, so it is fast. Tensors that were never changed in place, as those of a table, may come twice.
        """
        try:
            for key in group[0]:
                places = {knowledge[key].data_ptr(): knowledge[key] for knowledge in group}
                without = places.pop(0, None)
                if without is not None:
                    # Tensors without elements have no address; others without one are refused, and joining would not survive them.
                    plain(without, f"key {key!r}")
                    continue
                if len(places) < len(group) and any(_version(value) != 0 for value in places.values()):
                    raise _filled_again(key, self._calls)
        except (AttributeError, KeyError, IndexError, RuntimeError, TypeError):
            # No plain tensors. What is wrong is said where they are looked at; what is not is copied from here on.
            self._copying = True

    def _kept(self, knowledge: Any, *, owning: bool) -> Any:
        if not isinstance(knowledge, Mapping):
            return knowledge
        self._calls += 1
        if not self._settled and self._calls > _LEAST_CALLS and (self._calls > _WATCHED_CALLS or self._bytes > _WATCHED_BYTES):
            self._settle()
        changed = False
        made: dict[Any, Any] = {}
        for key, value in knowledge.items():
            if type(value) is not torch.Tensor or value.is_nested or value.layout is not torch.strided:
                kept = _owned_if_seen(value)
            elif not value.numel() or not value.data_ptr():
                # No elements, or no memory any more.
                kept = value
            elif self._copying or owning or self._is_foreign(value):
                kept = _tensor_copy(value)
            elif not self._settled and (value.device.type == "cpu" or value.nbytes <= _LARGEST_WATCHED_ON_DEVICE):
                kept = self._watch(value)
            else:
                self._refuse_refilled(key, value)
                kept = value
            made[key] = kept
            changed = changed or kept is not value
        return made if changed else knowledge

    def _settle(self) -> None:
        """End the first calls. Memory that is alive although only the model can hold it is a buffer, and may be filled again at any time."""
        self._settled = True
        held = [(_weak_storage(tensor), version) for tensor, version, _ in self._watched.values()]
        self._watched.clear()
        # What was never changed in place, as the tensors of a table, is no buffer.
        self._copying = self._copying or any(version != 0 and not storage.expired() for storage, version in held)

    def _is_foreign(self, value: torch.Tensor) -> bool:
        """Whether its memory is somebody else's (numpy, dlpack, a file), so that its version does not tell whether it was changed."""
        try:
            foreign = not value.untyped_storage().resizable()
        except RuntimeError:
            # It has no storage; what is wrong with it is said where it is looked at.
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
            if version is None or version != old_version or tensor.shape != value.shape or not _same(content, copied):
                # Filled again, or nobody can tell.
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
            # Pruned when it has doubled, so that a large table does not cost a search at every call.
            self._prune_at = max(_MANY_LIVE, 2 * len(self._live))


def _weak_storage(tensor: torch.Tensor) -> Any:
    """A weak reference to a tensor's memory, as torch's own multiprocessing uses it."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]  # torch's own gap


def _is_small(knowledge: Any) -> bool:
    """Whether it is a dict of plain tensors that may be joined with others."""
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
    """How often it was changed in place; None where torch does not count it."""
    return None if tensor.is_inference() else tensor._version


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    # By bytes, so that NaN is equal to itself.
    try:
        return torch.equal(one.contiguous().view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8))
    except (RuntimeError, TypeError):
        return False


def _owned_if_seen(value: Any) -> Any:
    try:
        return owned(value)
    except CannotCopy:
        # Nothing that can be carried; what is wrong with it is said where it is looked at.
        return value
