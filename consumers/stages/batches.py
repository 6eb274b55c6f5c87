"""Merged rows of many batches -> one dict of tensors per batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, repeat
from typing import Any

import torch

from tutelage.consumers.stages.torch_view import bit_view

#: Key -> tensor, or `SparseTarget` of a key that was sampled or sent as top-k.
Batch = dict[str, Any]
# Python's garbage collector visits each tensor that lives for a while and, once there are many,
# everything else that lives. Batches are therefore cut when they are needed, this many at a time.
_BATCHES_AT_ONCE = 64
# The dtypes that numpy has too.
_NUMPY_DTYPES = {
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64,
    torch.complex64, torch.complex128,
}  # fmt: skip


class Batches:
    """Batches that were merged together. Iterating gives each as a dict.

    The tensors, `[rows, ...]`, are parts of the memory in which the rows were merged.

    Guarantee: changing a tensor of one batch in place affects no other batch, neither its values
    nor what autograd knows of it.

    Args:
        columns: Key -> the tensor of all rows, or a list with one value per batch.
        rows: The number of rows of all batches.
        batch_size: Rows in a batch. The last batch may have fewer.
        pinned: Whether the columns are in pinned memory.
    """

    def __init__(
        self,
        columns: Mapping[str, torch.Tensor | list[Any]],
        rows: int,
        batch_size: int,
        *,
        pinned: bool = False,
    ) -> None:
        self._columns = columns
        self._pinned = pinned
        self.rows = rows
        self.batch_size = batch_size

    def __len__(self) -> int:
        # A rank of several may get a batch without rows.
        return max(1, -(-self.rows // self.batch_size))

    def __iter__(self) -> Iterator[Batch]:
        keys = list(self._columns)
        cutters = [self._cutter(column) for column in self._columns.values()]
        for first in range(0, len(self), _BATCHES_AT_ONCE):
            last = min(len(self), first + _BATCHES_AT_ONCE)
            tensors = zip(*(cut(first, last) for cut in cutters), strict=True)
            yield from map(dict, map(zip, repeat(keys), tensors))

    def _cutter(self, column: torch.Tensor | list[Any]) -> Callable[[int, int], Iterable[Any]]:
        """Return a function that gives a column's tensors of batches `first` to `last`.

        Views of one tensor would share a version counter and refuse `detach_`. Tensors made from
        numpy arrays have their own counter and storage, so saving, sharing or resizing one does not
        affect the others.
        """
        size, rows = self.batch_size, self.rows
        if isinstance(column, list):
            # These may be views, but of memory that no other batch uses. `data` detaches them.
            return lambda first, last: [
                each.data if isinstance(each, torch.Tensor) else each for each in column[first:last]
            ]
        if self._pinned:
            # After a copy to the GPU torch must find the block of pinned memory that a tensor is
            # part of, or it would reuse the block too early. Hence parts of one tensor's storage,
            # but not views of it.
            return lambda first, last: torch.unsafe_split_with_sizes(
                column[first * size : last * size],
                [min(size, rows - at * size) for at in range(first, last)],
            )
        in_numpy = column.dtype in _NUMPY_DTYPES
        elements = (column if in_numpy else bit_view(column)).numpy()
        whole, dtype = rows // size, column.dtype
        # Iterating over an array of whole batches is faster than slicing each of them.
        stacked = elements[: whole * size].reshape(whole, size, *elements.shape[1:])
        rest = elements[whole * size : rows]

        def cut(first: int, last: int) -> Iterable[torch.Tensor]:
            arrays = chain(stacked[first:last], [rest] if last > whole else ())
            tensors = map(torch.from_numpy, arrays)
            return tensors if in_numpy else [each.view(dtype).data for each in tensors]

        return cut
