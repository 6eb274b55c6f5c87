"""Memory for chunks, used again once nobody refers to it: fresh pages cost more than what is read into them.

An array is free when this pool alone refers to it. Tensors over it, views of them and numpy arrays made of them all do refer to it, so
a batch stays what it was for as long as anybody holds it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from tutelage.schemas.record import Array

# Beyond so many, arrays are the user's alone and are freed when he lets go of them.
_KEPT = 12
# The pool's list, the variable that looks at it, and the call that counts.
_UNUSED_REFERENCES = 3

#: Bytes wanted -> flat uint8 memory of at least so many.
Allocate = Callable[[int], Array]


class Buffers:
    """A pool of flat arrays of one size; for one thread.

    Guarantee: an array that is given is referred to by nobody else.
    """

    def __init__(self) -> None:
        self._arrays: list[Array] = []

    def take(self, nbytes: int) -> Array:
        """A flat uint8 array of `nbytes`, its content undefined."""
        for array in self._arrays:
            if array.nbytes == nbytes and sys.getrefcount(array) == _UNUSED_REFERENCES:
                return array
        array = np.empty(nbytes, np.uint8)
        self._arrays = [kept for kept in self._arrays if kept.nbytes == nbytes]
        if len(self._arrays) < _KEPT:
            self._arrays.append(array)
        return array


def pinned(nbytes: int) -> Array:
    """Page-locked memory, for copies to a GPU that nobody waits for; torch reuses it itself, after copies under way."""
    import torch

    return np.asarray(torch.empty(nbytes, dtype=torch.uint8, pin_memory=True).numpy())
