"""A seed -> the global generators of torch, numpy and `random`, for the length of a `with` block.

Most augmentations draw from these generators and take no generator as an argument.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch

from tutelage.augmentation.generators import Generators, checked_seed, derived
from tutelage.schemas.errors import ConfigurationError


def seeded(seed: Any) -> AbstractContextManager[Generators]:
    """Make what is drawn from torch, numpy and `random` in a `with` block a function of the seed.

    Guarantee: the block draws the same numbers wherever it runs, in any process or worker, and
    behind it, also after an exception, the global generators go on as if the block had not been.

        with seeded(row["seed"]) as rng:
            crop = augment(image)  # torch.rand, numpy.random.rand, random.random: all repeatable

    Covers torch's default generator of the CPU, those of all CUDA devices if CUDA was initialised
    before the block (CUDA is not initialised here), numpy's global generator and Python's. Blocks
    may be nested. The global generators belong to the process, so while one thread is in a block, a block
    of another thread is an error. Threads that draw without a block disturb it, unnoticed: use
    worker processes, or draw from `Generators(seed)`, which threads may do.

    Args:
        seed: An int64: an int, or an integer scalar of numpy or torch.

    Returns:
        A context manager that gives `Generators(seed)`, which are independent of the global ones.

    Raises:
        ConfigurationError: The seed is no integer or does not fit int64; on entry, another thread
            is in a block; on leaving, blocks ended in another order than they are nested in.
    """
    return _scope(checked_seed(seed))


class _Block:
    """A block of `seeded` that was entered: its thread, and the states from before it."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self._numpy = np.random.get_state(legacy=False)
        self._random = random.getstate()
        self._torch = torch.default_generator.get_state()
        self._cuda = [generator.get_state() for generator in _cuda_generators()]

    def restore(self) -> None:
        np.random.set_state(self._numpy)
        random.setstate(self._random)
        torch.default_generator.set_state(self._torch)
        # Those of a CUDA that was initialised in the block have no state from before it.
        for generator, state in zip(_cuda_generators(), self._cuda, strict=False):
            generator.set_state(state)


# The blocks that are entered, from the outermost on. Appending and removing are atomic.
_entered: list[_Block] = []


def _forget_other_threads() -> None:
    """In a forked process, where the threads of its parent do not exist."""
    _entered[:] = [block for block in _entered if block.thread == threading.get_ident()]


os.register_at_fork(after_in_child=_forget_other_threads)


@contextmanager
def _scope(seed: int) -> Generator[Generators]:
    block = _Block()
    # Entered before it is checked: of two threads at the same moment at least one sees the other.
    _entered.append(block)
    try:
        if any(other.thread != block.thread for other in _entered):
            raise ConfigurationError(
                "another thread of this process is in a block of seeded(), and the global random "
                "generators are the same for all threads. Augment in worker processes, or draw from "
                "Generators(seed)"
            )
        try:
            _seed_all(seed)
            yield Generators(seed)
        finally:
            block.restore()
        if _entered[-1] is not block:
            raise ConfigurationError(
                "blocks of seeded() ended in another order than they are nested in, so the global "
                "random generators are not what they were before. Do not yield or await in a block"
            )
    finally:
        _entered.remove(block)


def _seed_all(seed: int) -> None:
    words = derived(seed, "numpy")
    np.random.seed([words & 0xFFFFFFFF, words >> 32])
    random.seed(derived(seed, "random"))
    # Not torch.manual_seed: without CUDA initialised, it would seed CUDA whenever it is later on.
    torch.default_generator.manual_seed(derived(seed, "torch"))
    for generator in _cuda_generators():
        generator.manual_seed(derived(seed, "torch"))


def _cuda_generators() -> tuple[torch.Generator, ...]:
    initialised = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return torch.cuda.default_generators if initialised else ()
