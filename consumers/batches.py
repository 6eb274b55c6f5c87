"""Merged rows of many batches -> one dict of tensors a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat

import torch

Batch = dict[str, torch.Tensor]
_CUT_AT_ONCE = 64


class Batches:
    """Merged batches; iterated over, each becomes a dict of key -> tensor [rows, ...], a view of what they were merged in.

    They are cut by the dozen, when it is their turn: Python's garbage collector looks at every tensor that lives for a while, and then,
    once they are many, at all else that lives.
    """

    def __init__(self, columns: Mapping[str, torch.Tensor | list[torch.Tensor]], rows: int, batch_size: int) -> None:
        self._columns = columns
        self.rows = rows
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        keys = list(self._columns)
        for first in range(0, len(self), _CUT_AT_ONCE):
            cuts = [self._cut(column, first) for column in self._columns.values()]
            yield from map(dict, map(zip, repeat(keys), zip(*cuts, strict=True)))

    def _cut(self, column: torch.Tensor | list[torch.Tensor], first: int) -> Sequence[torch.Tensor]:
        """A column's next batches from batch `first` on."""
        if isinstance(column, list):
            return column[first : first + _CUT_AT_ONCE]
        return column[first * self.batch_size : (first + _CUT_AT_ONCE) * self.batch_size].split_with_sizes(
            [
                min(self.batch_size, self.rows - at * self.batch_size)
                for at in range(first, min(len(self), first + _CUT_AT_ONCE))
            ]
        )
