"""What one replica of a model returns -> the same in memory that later calls do not change.

Results are in flight while the model computes the next ones, and a model may return one buffer
again and again. Copying every result would be safe and slow, so reused memory is detected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from tutelage.producers.stages.join import SMALL_BATCH_BYTES
from tutelage.producers.stages.key_values import KeyValues
from tutelage.producers.stages.ownership import copy_tensor, owned_if_possible
from tutelage.producers.stages.plain_tensors import to_plain
from tutelage.schemas.errors import SchemaError

# How many tensor addresses are remembered before the first pruning, and at most. There are never
# more batches of large tensors in flight than that.
_MANY_LIVE = 1024
_MOST_LIVE = 1 << 16
# The first calls are watched for reused memory: until the calls or the returned bytes exceed these
# limits, but for at least _LEAST_CALLS calls.
_WATCHED_CALLS = 64
_WATCHED_BYTES = 16 << 20
_LEAST_CALLS = 8
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
        self._stopped_watching = False
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
            self._stopped_watching
            and self._small
            and count > 1
            and not (self._copying or self._foreign or owning)
        ):
            group = list(calls)
            self._check_distinct_memory(group)
        else:
            group = [self._keep(knowledge, owning=owning) for knowledge in calls]
        self._small = all(map(_is_small, group[-1:]))
        return group

    def _check_distinct_memory(self, group: list[Any]) -> None:
        """Raise SchemaError if two results of the group share memory that was changed in place.

        Small results are joined, and so copied, at the end of their group; until then each needs
        its own memory. Tensors that were never changed in place (views of a table) may be returned
        twice. This runs for every small batch, so it must be fast.
        """
        try:
            for key in group[0]:
                by_address = {knowledge[key].data_ptr(): knowledge[key] for knowledge in group}
                without_address = by_address.pop(0, None)
                if without_address is not None:
                    # Empty tensors have address 0. So have tensors whose memory was freed:
                    # `to_plain` raises for those, since joining them would crash.
                    to_plain(without_address, f"key {key!r}")
                    continue
                if len(by_address) < len(group) and any(
                    _version(value) != 0 for value in by_address.values()
                ):
                    raise _refilled_error(key, self._calls)
        except (AttributeError, KeyError, IndexError, RuntimeError, TypeError):
            # Not plain tensors. The transfer stage reports invalid values; valid ones are copied
            # from now on.
            self._copying = True

    def _keep(self, knowledge: Any, *, owning: bool) -> Any:
        if not isinstance(knowledge, Mapping):
            return knowledge
        self._calls += 1
        if (
            not self._stopped_watching
            and self._calls > _LEAST_CALLS
            and (self._calls > _WATCHED_CALLS or self._bytes > _WATCHED_BYTES)
        ):
            self._stop_watching()
        changed = False
        results: dict[Any, Any] = {}
        kept: Any
        for key, value in knowledge.items():
            if isinstance(value, KeyValues):
                # Encoded, and so in new memory.
                kept = value
            elif (
                type(value) is not torch.Tensor
                or value.is_nested
                or value.layout is not torch.strided
            ):
                # If it cannot be copied, it cannot be sent: the transfer stage reports the error.
                kept = owned_if_possible(value)
            elif not value.numel() or not value.data_ptr():
                # No elements, or memory that was freed.
                kept = value
            elif self._copying or owning or self._is_foreign(value):
                kept = copy_tensor(value)
            elif not self._stopped_watching and (
                value.device.type == "cpu" or value.nbytes <= _LARGEST_WATCHED_ON_DEVICE
            ):
                kept = self._watch(value)
            else:
                self._check_not_refilled(key, value)
                kept = value
            results[key] = kept
            changed = changed or kept is not value
        return results if changed else knowledge

    def _stop_watching(self) -> None:
        """End watching, and decide whether to copy all later results.

        A watched storage that is still alive can only be held by the model, which may refill it.
        """
        self._stopped_watching = True
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
        copied = copy_tensor(value)
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

    def _check_not_refilled(self, key: Any, value: torch.Tensor) -> None:
        address, version = value.data_ptr(), _version(value)
        before = self._live.get(address)
        if before is not None and version != before[1] and not before[0].expired():
            raise _refilled_error(key, self._calls)
        self._live[address] = (_weak_storage(value), version)
        if len(self._live) > self._prune_at:
            self._live = {at: one for at, one in self._live.items() if not one[0].expired()}
            while len(self._live) > _MOST_LIVE:
                del self._live[next(iter(self._live))]
            # Prune again only once the size has doubled, so that not every call searches the table.
            self._prune_at = max(_MANY_LIVE, 2 * len(self._live))


def _weak_storage(tensor: torch.Tensor) -> Any:
    """A weak reference to a tensor's storage, as torch.multiprocessing uses it."""
    # torch does not annotate the class.
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _is_small(knowledge: Any) -> bool:
    """Whether it is a dict of plain tensors that is small enough to be joined with others."""
    if type(knowledge) is not dict:
        return False
    nbytes = 0
    for value in knowledge.values():
        if type(value) is not torch.Tensor or value.layout is not torch.strided or value.is_nested:
            return False
        nbytes += value.nbytes
    return nbytes <= SMALL_BATCH_BYTES


def _refilled_error(key: Any, calls: int) -> SchemaError:
    return SchemaError(
        f"key {key!r}: the model returned memory that it returned before and has changed since, "
        "while the earlier values were still to be written (it did not in its first "
        f"{calls} calls); return new tensors each time: tensor.clone()"
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
