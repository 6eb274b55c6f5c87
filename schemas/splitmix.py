"""SplitMix64: well-mixed numbers that depend on a start and a place alone. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np

Words = np.ndarray[Any, np.dtype[np.uint64]]


def splitmix(start: int, places: Words) -> Words:
    """Return the words at some places of a sequence ("Fast Splittable Pseudorandom Number
    Generators", OOPSLA 2014). Each place has another word.

    Args:
        start: Which sequence, from 0 to 2**64 - 1.
        places: uint64 `[n]`, from 0.

    Returns:
        uint64 `[n]`.
    """
    # Arrays of uint64 wrap around, as they do in the paper.
    word = np.uint64(start) + (places + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Words = word ^ (word >> np.uint64(31))
    return mixed
