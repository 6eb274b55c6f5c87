"""The teacher's inputs: what users have (loader, generator, samples, array) -> batches, pass by pass, read ahead.

Knows how many rows a batch holds where that can be seen, so that a restarted teacher can pass over what was written.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from tutelage.producers.worker import Worker
from tutelage.schemas.errors import ConfigurationError

_END = object()
MAX_GROUP = 256
# A group is handed on after this long, full or not: inputs that come slowly must not wait for each other.
GROUP_SECONDS = 0.001


class Inputs:
    """Batches that can be read once per pass.

    `inputs` is an iterable of batches that starts anew each time (DataLoader, list, ...), a function without arguments that
    returns one (a generator function), an iterator (one pass only), or an array or tensor [rows, ...] with a `batch_size`.
    """

    def __init__(self, inputs: Any, *, batch_size: int | None = None, passes: int = 1) -> None:
        if batch_size is not None and batch_size < 1:
            raise ConfigurationError(f"batch_size is {batch_size}; it must be at least 1")
        self._inputs = inputs
        self._batch_size = batch_size
        sliceable = isinstance(inputs, (np.ndarray, torch.Tensor))
        if sliceable != (batch_size is not None):
            raise ConfigurationError(
                "an array as inputs needs a batch_size"
                if sliceable
                else "batch_size is for arrays; a loader or generator gives its own batches (from_samples makes them of samples)"
            )
        if not sliceable and not callable(inputs) and not isinstance(inputs, Iterable):
            raise ConfigurationError(f"inputs is a {type(inputs).__name__}; give a loader, generator, function or array")
        if passes > 1 and isinstance(inputs, Iterator):
            raise ConfigurationError(
                f"{passes} passes over an iterator, which can be read once; give a function that returns a new one each time"
            )

    def one_pass(self) -> Iterator[Any]:
        """A new iterator over the batches."""
        if self._batch_size is not None:
            size = self._batch_size
            return (self._inputs[start : start + size] for start in range(0, len(self._inputs), size))
        iterable = self._inputs
        if callable(iterable) and not isinstance(iterable, Iterable):
            iterable = iterable()
        return iter(iterable)


class ReadAhead:
    """Reads batches in a thread of its own, in groups, `depth` groups ahead. Close it."""

    def __init__(self, batches: Iterator[Any], *, depth: int = 2) -> None:
        self._batches = batches
        self._thread = Worker("tutelage-inputs")
        self._depth = depth
        # What is being read, by number, and the number of the oldest that was not taken: only of that one may a part be taken.
        self._futures: list[Future[list[Any]]] = []
        self._oldest = 0
        self._reading = -1
        self._group: list[Any] = []
        self._lock = threading.Lock()
        self.group_size = 1
        self.exhausted = False

    def next_group(self) -> Future[list[Any]] | None:
        """The future of the next group of batches, in order; None when there are no more."""
        while len(self._futures) < self._depth and not self.exhausted:
            self._futures.append(self._thread.submit(self._read, self.group_size))
        return self._futures[0] if self._futures else None

    def take(self) -> list[Any]:
        """The next group, which must be done. An empty one says that there are no more. Raises what the inputs raised."""
        group = self._futures.pop(0).result()
        self._oldest += 1
        if group and group[-1] is _END:
            group.pop()
            self.exhausted = True
            self._futures.clear()
        return group

    @property
    def holds_part(self) -> bool:
        """Whether batches were read that wait for others of their group."""
        return bool(self._group)

    def take_part(self) -> list[Any]:
        """The batches that were read of the next group while others are not there yet; they need not wait for inputs that pause."""
        with self._lock:
            if self._reading != self._oldest:
                return []
            part, self._group = self._group, []
            return part

    def _read(self, size: int) -> list[Any]:
        with self._lock:
            self._reading += 1
        began = time.perf_counter()
        while True:
            batch = next(self._batches, _END)
            with self._lock:
                self._group.append(batch)
                if batch is _END or len(self._group) >= size or time.perf_counter() - began > GROUP_SECONDS:
                    group, self._group = self._group, []
                    return group

    def close(self) -> None:
        """End the thread; does not wait for a batch that is being read."""
        self._thread.close()


def rows_in(batch: Any) -> int | None:
    """How many rows an input batch holds: the first dimension all its tensors share; None if that cannot be seen."""
    if isinstance(batch, (torch.Tensor, np.ndarray)):
        return int(batch.shape[0]) if batch.ndim else None
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, (list, tuple)) and batch:
        if all(isinstance(item, (str, bytes, int, float)) for item in batch):
            return len(batch)
        if any(isinstance(item, (list, tuple)) and item and isinstance(item[0], (int, float)) for item in batch):
            # A list of lists of numbers: which of its two lengths is the batch's cannot be seen.
            return None
        counts = {rows_in(item) for item in batch}
        return counts.pop() if len(counts) == 1 else None
    return None


def from_samples(
    samples: Callable[[], Iterable[Any]], batch_size: int, *, drop_last: bool = False
) -> Callable[[], Iterator[Any]]:
    """Inputs made of a function that gives single samples (Pantheon's sample generator), collated as torch does."""
    if batch_size < 1:
        raise ConfigurationError(f"batch_size is {batch_size}; it must be at least 1")

    def batches() -> Iterator[Any]:
        pending: list[Any] = []
        for sample in samples():
            pending.append(sample)
            if len(pending) == batch_size:
                yield default_collate(pending)
                pending = []
        if pending and not drop_last:
            yield default_collate(pending)

    return batches


def from_sample_lists(lists: Callable[[], Iterable[list[Any]]]) -> Callable[[], Iterator[Any]]:
    """Inputs made of a function that gives lists of samples, one list a batch (Pantheon's sample list generator)."""

    def batches() -> Iterator[Any]:
        return (default_collate(samples) for samples in lists())

    return batches
