"""Merged rows of many batches -> one dict of tensors a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat

import torch

from tutelage.consumers.torch_view import carried

Batch = dict[str, torch.Tensor]
_CUT_AT_ONCE = 64
# What numpy has too.
_NUMPYS = {
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64,
    torch.complex64, torch.complex128,
}  # fmt: skip


class Batches:
    """Merged batches; iterated over, each becomes a dict of key -> tensor [rows, ...] over a part of the memory they were merged in.

    Guarantee: what is done in place to a tensor of one batch shows in no other, neither in values nor in what autograd knows of it.

    They are cut by the dozen, when it is their turn: Python's garbage collector looks at every tensor that lives for a while, and then,
    once they are many, at all else that lives.
    """

    def __init__(
        self, columns: Mapping[str, torch.Tensor | list[torch.Tensor]], rows: int, batch_size: int, *, pinned: bool = False
    ) -> None:
        self._columns = columns
        self._pinned = pinned
        self.rows = rows
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        keys = list(self._columns)
        cuts = [self._cut(column) for column in self._columns.values()]
        for first in range(0, len(self), _CUT_AT_ONCE):
            starts = range(first * self.batch_size, self.rows, self.batch_size)[:_CUT_AT_ONCE]
            yield from map(dict, map(zip, repeat(keys), zip(*(cut(starts) for cut in cuts), strict=True)))

    def _cut(self, column: torch.Tensor | list[torch.Tensor]) -> Callable[[range], Sequence[torch.Tensor]]:
        """What makes a column's batches of the rows at which they start.

        Views of one tensor have one version counter, and refuse `detach_`. Tensors made of numpy arrays have their own, and memory that
        ends with the batch, so that one that is saved, shared or resized takes no other along.
        """
        size = self.batch_size
        if isinstance(column, list):
            # They may be views, of memory that is theirs alone.
            return lambda starts: [each.data for each in column[starts[0] // size : starts[-1] // size + 1]]
        if self._pinned:
            # Torch must find its block behind a copy to the GPU, or would give it out again too early: parts of one, but not views.
            rows = self.rows
            return lambda starts: torch.unsafe_split_with_sizes(
                column[starts[0] : starts[-1] + size], [min(size, rows - start) for start in starts]
            )
        made, array = torch.from_numpy, column if column.dtype in _NUMPYS else carried(column)
        elements, dtype = array.numpy(), column.dtype
        if array is column:
            return lambda starts: [made(elements[start : start + size]) for start in starts]
        return lambda starts: [made(elements[start : start + size]).view(dtype).data for start in starts]
