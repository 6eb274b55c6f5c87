"""Merged rows of many batches -> one dict of tensors a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, repeat

import torch

from tutelage.consumers.stages.torch_view import carried

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
        self,
        columns: Mapping[str, torch.Tensor | list[torch.Tensor]],
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
        return -(-self.rows // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        keys = list(self._columns)
        cuts = [self._cut(column) for column in self._columns.values()]
        for first in range(0, len(self), _CUT_AT_ONCE):
            last = min(len(self), first + _CUT_AT_ONCE)
            yield from map(
                dict, map(zip, repeat(keys), zip(*(cut(first, last) for cut in cuts), strict=True))
            )

    def _cut(
        self, column: torch.Tensor | list[torch.Tensor]
    ) -> Callable[[int, int], Iterable[torch.Tensor]]:
        """What makes a column's batches from one number up to another.

        Views of one tensor have one version counter, and refuse `detach_`. Tensors made of numpy arrays have their own, and memory that
        ends with the batch, so that one that is saved, shared or resized takes no other along.
        """
        size, rows = self.batch_size, self.rows
        if isinstance(column, list):
            # They may be views, of memory that is theirs alone.
            return lambda first, last: [each.data for each in column[first:last]]
        if self._pinned:
            # Torch must find its block behind a copy to the GPU, or would give it out again too early: parts of one, but not views.
            return lambda first, last: torch.unsafe_split_with_sizes(
                column[first * size : last * size],
                [min(size, rows - at * size) for at in range(first, last)],
            )
        numpys = column.dtype in _NUMPYS
        elements, whole, dtype = (
            (column if numpys else carried(column)).numpy(),
            rows // size,
            column.dtype,
        )
        # Going through an array of whole batches is faster than slicing each.
        stacked, rest = (
            elements[: whole * size].reshape(whole, size, *elements.shape[1:]),
            elements[whole * size : rows],
        )

        def cut(first: int, last: int) -> Iterable[torch.Tensor]:
            made = map(torch.from_numpy, chain(stacked[first:last], [rest] if last > whole else ()))
            return made if numpys else [each.view(dtype).data for each in made]

        return cut
