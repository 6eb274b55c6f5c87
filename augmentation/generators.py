"""A seed -> random generators of torch, numpy and `random` that are nobody else's.

What a seed gives is part of what teachers stored, so it never changes: the tests hold its values.
Knows nothing of the libraries' global generators; `scope.py` does.
"""

from __future__ import annotations

import operator
import random
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xxhash

from tutelage.schemas.errors import ConfigurationError

_BITS = 63


class Generators:
    """Random generators made from one seed, for code that takes a generator as an argument.

    Guarantee: what they give depends on the seed and on what is drawn from them, and on nothing
    else in the process. Each is made when it is first used. They are independent of each other and
    of the global generators in `seeded(seed)`.

    Args:
        seed: An int64: an int, or an integer scalar of numpy or torch.

    Raises:
        ConfigurationError: The seed is no integer, or does not fit int64.
    """

    def __init__(self, seed: Any) -> None:
        self.seed = checked_seed(seed)

    def __repr__(self) -> str:
        return f"Generators({self.seed})"

    @cached_property
    def torch(self) -> torch.Generator:
        """A generator of torch on the CPU, a Mersenne twister."""
        return torch.Generator("cpu").manual_seed(derived(self.seed, "own torch"))

    @cached_property
    def numpy(self) -> np.random.Generator:
        """A generator of numpy, on Philox, which is counter-based."""
        words = (derived(self.seed, "own numpy 0"), derived(self.seed, "own numpy 1"))
        return np.random.Generator(np.random.Philox(key=np.array(words, dtype=np.uint64)))

    @cached_property
    def random(self) -> random.Random:
        """A generator of Python's `random`, a Mersenne twister."""
        return random.Random(derived(self.seed, "own random"))


def checked_seed(seed: Any) -> int:
    """Return a seed as an int.

    Raises:
        ConfigurationError: It is no integer, or does not fit int64.
    """
    try:
        number = None if isinstance(seed, bool) else operator.index(seed)
    except (TypeError, RuntimeError):
        number = None
    if number is None or not -(1 << _BITS) <= number < 1 << _BITS:
        raise ConfigurationError(
            f"seed is {seed!r}; it must be one whole number that fits int64, such as a row of the "
            "key `seed`"
        )
    return number


def derived(seed: int, use: str) -> int:
    """Return 64 bits for one use of a seed: xxh3-64 of the use, seeded with the seed.

    Libraries take seeds in ways that collide: `random` drops the sign, and torch's CPU generator
    the upper 32 bits. Behind a hash all 64 bits count, and neighbouring seeds are unrelated.
    """
    return xxhash.xxh3_64_intdigest(use.encode(), seed=seed % (1 << 64))
