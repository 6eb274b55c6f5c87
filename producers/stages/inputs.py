"""A teacher's inputs (loader, generator, function or array) -> the batches of each pass.

Batches are read where they are requested; `read_ahead.py` requests them in a thread of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate

from tutelage.producers.stages.samples import CollatedSamples
from tutelage.schemas.arguments import check_whole_number
from tutelage.schemas.errors import ConfigurationError


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
                else "batch_size is for arrays; a loader or generator gives its own batches "
                "(from_samples makes them of samples)"
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
                f"{passes} passes over an iterator, which can be read once; give a function that "
                "returns a new one each time"
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
                    f"inputs is a function that returned a {type(iterable).__name__}; it must "
                    "return a loader, generator or list of batches"
                )
        if self._passes > 1:
            _set_epoch(iterable, index)
        self.new_memory = _gives_new_memory(iterable)
        # Closing this generator closes the user's generator, in the same thread.
        yield from iterable


def _set_epoch(iterable: Any, index: int) -> None:
    """Call `set_epoch(index)` where it exists: on the loader, its samplers and its data set."""
    batch_sampler = getattr(iterable, "batch_sampler", None)
    candidates = [
        iterable,
        getattr(iterable, "sampler", None),
        batch_sampler,
        getattr(batch_sampler, "sampler", None),
        getattr(iterable, "dataset", None),
    ]
    # By identity: one object may be reached in several ways, and is called once.
    owners = {id(each): each for each in candidates if callable(getattr(each, "set_epoch", None))}
    for owner in owners.values():
        owner.set_epoch(index)


def _gives_new_memory(iterable: Any) -> bool:
    """Whether its batches already exist, or are newly allocated by torch's default collation."""
    if type(iterable) in (list, tuple, range) or isinstance(iterable, CollatedSamples):
        return True
    return (
        type(iterable) is DataLoader
        and iterable.collate_fn is default_collate
        and iterable.batch_sampler is not None
    )
