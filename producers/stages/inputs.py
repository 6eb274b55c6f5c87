"""A teacher's inputs (loader, generator, samples or array) -> batches of each pass, read ahead.

The model gets exactly what a plain loop over the inputs would give it, although batches are read
before the model needs them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate

from tutelage.producers.stages.ownership import CannotCopy, owned
from tutelage.producers.stages.row_counts import rows_in as rows_in
from tutelage.producers.stages.surroundings import is_about_threads
from tutelage.producers.stages.worker import Executor, Worker
from tutelage.schemas.arguments import check_flag, check_whole_number
from tutelage.schemas.errors import ConfigurationError

log = logging.getLogger(__name__)

_END = object()
MAX_GROUP = 256
# A group that is not full is passed on after this time: slow inputs must not wait for each other.
GROUP_SECONDS = 0.001
# Written passes are read through in steps of about this length, so that the main loop can report
# progress between them.
_STEP_SECONDS = 0.2


class Inputs:
    """A teacher's inputs, from which each pass reads its batches once.

    Args:
        inputs: An iterable of batches that can be iterated again for each pass (DataLoader, list),
            a function without arguments that returns one (a generator function), an iterator (one
            pass only), or an array or tensor `[rows, ...]` with a `batch_size`.
        batch_size: Rows per batch; only for arrays.
        passes: How many times the inputs are read.

    Raises:
        ConfigurationError: `inputs` is none of these, or cannot be read `passes` times.
    """

    def __init__(self, inputs: Any, *, batch_size: int | None = None, passes: int = 1) -> None:
        self._batch_size = (
            None if batch_size is None else check_whole_number("batch_size", batch_size)
        )
        passes = check_whole_number("passes", passes)
        self._inputs = inputs
        self._passes = passes
        #: Whether each batch is known to have memory of its own that is never refilled. For inputs
        #: given as a function, this is known once the first batch was read.
        self.new_memory = False
        sliceable = isinstance(inputs, (np.ndarray, torch.Tensor))
        if sliceable != (batch_size is not None):
            raise ConfigurationError(
                "an array as inputs needs a batch_size"
                if sliceable
                else "batch_size is for arrays; a loader or generator gives its own batches (from_samples makes them of samples)"
            )
        if sliceable and not inputs.ndim:
            raise ConfigurationError(
                "inputs is an array of a single number; its first dimension must be rows"
            )
        if not sliceable and (
            isinstance(inputs, (str, bytes))
            or not (callable(inputs) or isinstance(inputs, Iterable))
        ):
            raise ConfigurationError(
                f"inputs is a {type(inputs).__name__}; give a loader, generator, function or array"
            )
        if passes > 1 and isinstance(inputs, Iterator):
            raise ConfigurationError(
                f"{passes} passes over an iterator, which can be read once; give a function that returns a new one each time"
            )

    @property
    def stateless(self) -> bool:
        """Whether all passes give the same batches. Then a written pass need not be read again."""
        return self._batch_size is not None or type(self._inputs) in (list, tuple, range)

    def one_pass(self, index: int = 0) -> Iterator[Any]:
        """Return an iterator over the batches of pass `index`.

        The inputs are opened when the first batch is requested, in the thread that requests it.

        Raises:
            ConfigurationError: `inputs` is a function that did not return an iterable.
        """
        if self._batch_size is not None:
            size = self._batch_size
            self.new_memory = True
            for start in range(0, len(self._inputs), size):
                yield self._inputs[start : start + size]
            return
        iterable = self._inputs
        if callable(iterable) and not isinstance(iterable, Iterable):
            iterable = iterable()
            if not isinstance(iterable, Iterable):
                raise ConfigurationError(
                    f"inputs is a function that returned a {type(iterable).__name__}; it must return a loader, generator or list of batches"
                )
        if self._passes > 1:
            _set_epoch(iterable, index)
        self.new_memory = _gives_new_memory(iterable)
        # Closing this generator closes the user's generator, in the same thread.
        yield from iterable


def _set_epoch(iterable: Any, index: int) -> None:
    """Call `set_epoch(index)` where it exists: on the loader, its samplers and its data set."""
    batch_sampler = getattr(iterable, "batch_sampler", None)
    owners = [
        iterable, getattr(iterable, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None), getattr(iterable, "dataset", None),
    ]  # fmt: skip
    told: list[Any] = []
    for owner in owners:
        if callable(getattr(owner, "set_epoch", None)) and not any(
            owner is other for other in told
        ):
            told.append(owner)
            owner.set_epoch(index)


def _gives_new_memory(iterable: Any) -> bool:
    """Whether its batches already exist, or are newly allocated by torch's default collation."""
    if type(iterable) in (list, tuple, range) or isinstance(iterable, _Collated):
        return True
    return (
        type(iterable) is DataLoader
        and iterable.collate_fn is default_collate
        and iterable.batch_sampler is not None
    )


class ReadAhead:
    """Reads a pass's batches in groups, up to `depth` groups ahead. The caller must close it.

    Guarantee: a batch keeps the content that it had when it was read.

    Batches are copied unless `new_memory()` is true. A batch that cannot be copied blocks reading
    until `release` is called.

    Args:
        batches: The iterator over the pass's batches.
        depth: How many groups may be requested before they are taken.
        thread: Where reading happens. If not given, a new thread.
        ahead: Whether to read ahead. If False, batches are not copied, and each blocks reading.
        new_memory: Whether batches need no copy; called after each batch was read.
    """

    def __init__(
        self, batches: Iterator[Any], *, depth: int = 2, thread: Executor | None = None, ahead: bool = True,
        new_memory: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        self._batches = batches
        self._thread = thread or Worker("tutelage-inputs")
        self._owns_thread = thread is None
        self._depth = depth
        self._ahead = ahead
        self._new_memory = new_memory
        # The requested groups, the number of the oldest one that was not taken, and the number of
        # the one being read. A part may be taken only of the oldest group.
        self._futures: list[Future[list[Any]]] = []
        self._oldest = 0
        self._reading = -1
        self._group: list[Any] = []
        self._lock = threading.Lock()
        #: Whether the last batch must be processed before the next one is read, because reading may
        #: overwrite its memory.
        self.blocked = False
        self._told = False
        self._closed = False
        self.group_size = 1
        self.exhausted = False

    def next_group(self) -> Future[list[Any]] | None:
        """Return the future of the next group, in order.

        None if there are no more groups, or while reading is blocked.
        """
        while len(self._futures) < self._depth and not self.exhausted and not self.blocked:
            self._futures.append(self._thread.submit(self._read, self.group_size))
        return self._futures[0] if self._futures else None

    def take(self) -> list[Any]:
        """Return the next group, whose future must be done. Raises what the inputs raised.

        An empty group means that there are no more batches, unless reading is blocked.
        """
        group = self._futures.pop(0).result()
        self._oldest += 1
        if group and group[-1] is _END:
            group.pop()
            self.exhausted = True
            self._futures.clear()
        return group

    @property
    def waits(self) -> bool:
        """Whether all batches that were read are taken, and reading is blocked until `release`."""
        return self.blocked and not self._futures and not self.exhausted

    def release(self) -> None:
        """Resume reading. The batches that were taken must no longer be in use."""
        self.blocked = False

    @property
    def holds_part(self) -> bool:
        """Whether batches were read whose group is not complete yet."""
        return bool(self._group)

    def take_part(self) -> list[Any]:
        """Return the batches of the next group that were read so far.

        They are used at once instead of waiting for the rest of their group.
        """
        with self._lock:
            if self._reading != self._oldest:
                return []
            part, self._group = self._group, []
            return part

    def _read(self, size: int) -> list[Any]:
        with self._lock:
            self._reading += 1
        began = time.perf_counter()
        while not self.blocked and not self._closed:
            batch = self._next()
            blocks = batch is not _END and not self._ahead
            if batch is not _END and self._ahead and not self._new_memory():
                try:
                    batch = owned(batch)
                except CannotCopy:
                    blocks = True
                    self._say_once(batch)
            with self._lock:
                self._group.append(batch)
                self.blocked = blocks
                if (
                    blocks
                    or batch is _END
                    or len(self._group) >= size
                    or time.perf_counter() - began > GROUP_SECONDS
                ):
                    group, self._group = self._group, []
                    return group
        # The previous group blocks reading, or the reader is closed.
        return []

    def _next(self) -> Any:
        try:
            return next(self._batches, _END)
        except Exception as error:
            if self._ahead and is_about_threads(error):
                raise ConfigurationError(
                    f"the inputs raised {type(error).__name__}: {error}. Inputs are read in a thread of their own: make the connection in the "
                    "function or generator that is given as inputs, or read them in the calling thread: serve(..., read_ahead=False)"
                ) from error
            raise

    def _say_once(self, batch: Any) -> None:
        if not self._told:
            self._told = True
            log.info(
                "the inputs' batches (%s) hold objects that cannot be copied, so none is read before the one before it is done",
                type(batch).__name__,
            )

    def read_through(self) -> Future[bool]:
        """Read and drop batches for about 0.2 s. The future says whether there are more.

        Must not be mixed with `next_group`.
        """
        return self._thread.submit(self._step)

    def _step(self) -> bool:
        began = time.perf_counter()
        while time.perf_counter() - began < _STEP_SECONDS:
            if self._next() is _END:
                return False
        return True

    def close(self) -> None:
        """Stop reading, and close the inputs' generator in the thread that read it.

        Does not wait for a batch that is being read.
        """
        self._closed = True
        self._thread.submit(getattr(self._batches, "close", lambda: None))
        if self._owns_thread:
            self._thread.close()


class _Collated(Iterator[Any]):
    """Batches that torch's default collation makes of samples; each has new memory."""

    def __init__(
        self, samples: Callable[[], Iterable[Any]], batch_size: int, *, drop_last: bool
    ) -> None:
        self._batches = _collated(samples, batch_size, drop_last=drop_last)

    def __next__(self) -> Any:
        return next(self._batches)

    def close(self) -> None:
        """Close the generator of samples."""
        self._batches.close()


def _collated(
    samples: Callable[[], Iterable[Any]], batch_size: int, *, drop_last: bool
) -> Generator[Any, None, None]:
    pending: list[Any] = []
    for sample in samples():
        # The source may reuse the memory for its next sample.
        pending.append(_sample(sample))
        if len(pending) == batch_size:
            yield default_collate(pending)
            pending = []
    if pending and not drop_last:
        yield default_collate(pending)


def _sample(sample: Any) -> Any:
    try:
        return owned(sample)
    except CannotCopy:
        # `default_collate` raises for samples that it does not support.
        return sample


def from_samples(
    samples: Callable[[], Iterable[Any]], batch_size: int, *, drop_last: bool = False
) -> Callable[[], Iterator[Any]]:
    """Turn a function that returns single samples into inputs (Pantheon's sample generator).

    Args:
        samples: A function without arguments that returns an iterable of samples. It is called once
            per pass. A sample is what torch's `default_collate` accepts: tensors, arrays, numbers,
            or tuples, lists and dicts of them.
        batch_size: Samples per batch.
        drop_last: Whether to drop a shorter last batch.

    Returns:
        A function that returns an iterator of batches, for `Teacher.serve`.

    Raises:
        ConfigurationError: An argument has the wrong type or value.
    """
    _check_function("samples", samples)
    size, drop = check_whole_number("batch_size", batch_size), check_flag("drop_last", drop_last)
    return lambda: _Collated(samples, size, drop_last=drop)


def from_sample_lists(lists: Callable[[], Iterable[list[Any]]]) -> Callable[[], Iterator[Any]]:
    """Turn a function that returns lists of samples into inputs (Pantheon's sample list generator).

    Args:
        lists: A function without arguments that returns an iterable of lists. It is called once per
            pass. Torch's `default_collate` makes one batch of each list.

    Returns:
        A function that returns an iterator of batches, for `Teacher.serve`.

    Raises:
        ConfigurationError: `lists` is not a function.
    """
    _check_function("lists", lists)

    def batches() -> Iterator[Any]:
        return (default_collate(samples) for samples in lists())

    return batches


def _check_function(name: str, value: Any) -> None:
    if not callable(value):
        raise ConfigurationError(
            f"{name} is a {type(value).__name__}; give a function without arguments that returns what is to be read"
        )
