"""Memory for chunks, used again once nobody refers to it: fresh pages cost more than what is read into them.

An array is free when this pool alone refers to it. Tensors over it, views of them and numpy arrays made of them all do refer to it, so
a batch stays what it was for as long as anybody holds it.
"""

from __future__ import annotations

import sys

import numpy as np

from tutelage.schemas.record import Array

# Beyond so many, arrays are the user's alone and are freed when he lets go of them.
_KEPT = 12


class Buffers:
    """A pool of flat arrays of one size; for one thread.

    Guarantee: an array that is given is referred to by nobody else.
    """

    def __init__(self) -> None:
        self._arrays: list[Array] = []

    def take(self, nbytes: int) -> Array:
        """A flat uint8 array of `nbytes`, its content undefined."""
        found = _first_unused(self._arrays, nbytes, _UNUSED_REFERENCES)
        if found is not None:
            return found
        array = np.empty(nbytes, np.uint8)
        self._arrays = [kept for kept in self._arrays if kept.nbytes == nbytes]
        if len(self._arrays) < _KEPT:
            self._arrays.append(array)
        return array


def _first_unused(arrays: list[Array], nbytes: int, unused: int) -> Array | None:
    for array in arrays:
        if array.nbytes == nbytes and sys.getrefcount(array) == unused:
            return array
    return None


def _references_of_the_unused() -> int:
    """What `_first_unused` counts for an array that only its list refers to: Pythons differ. -1, which nothing has, where counting is no use."""
    arrays = [np.empty(1, np.uint8)]
    for count in range(1, 8):
        if _first_unused(arrays, 1, count) is not None:
            held = arrays[0]
            again = _first_unused(arrays, 1, count)
            del held
            return count if again is None else -1
    return -1


_UNUSED_REFERENCES = _references_of_the_unused()
