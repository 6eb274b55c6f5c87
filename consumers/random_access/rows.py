"""Rows as a DataLoader takes them: one row, the rows of one batch, and how torch collates them.

A batch is read and padded at once. `RowBatch` hands it to torch's `default_collate` as it is, and
to a collate function of the user's as a sequence of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data._utils.collate import default_collate, default_collate_fn_map

from tutelage.consumers.stages.batches import Batch
from tutelage.consumers.stages.merge import LENGTHS_SUFFIX
from tutelage.consumers.stages.ragged import RaggedFormat, pad_rows


class Row(dict[str, Any]):
    """One row: key -> tensor without a dimension of rows, or a `SparseTarget` of one row.

    Args:
        values: Key -> value.
        ragged: The format of ragged keys, for when rows are collated.
        ragged_keys: The ragged keys that are tensors.
    """

    def __init__(
        self, values: Mapping[str, Any], ragged: RaggedFormat, ragged_keys: frozenset[str]
    ) -> None:
        super().__init__(values)
        self.ragged = ragged
        self.ragged_keys = ragged_keys

    def __reduce__(self) -> tuple[Any, ...]:
        return Row, (dict(self), self.ragged, self.ragged_keys)


class RowBatch(Sequence[Row]):
    """The rows of one batch, which `default_collate` turns into the batch.

    Args:
        batch: The batch.
        rows: How many rows it has.
        ragged: The format of its ragged keys.
        ragged_keys: The ragged keys that are tensors.
    """

    def __init__(
        self, batch: Batch, rows: int, ragged: RaggedFormat, ragged_keys: frozenset[str]
    ) -> None:
        self.batch = batch
        self._rows = rows
        self._format = ragged
        self._ragged_keys = ragged_keys

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: Any) -> Any:
        """The row of a number."""
        row = range(self._rows)[index]
        values = {key: self._value(key, row) for key in self.batch}
        return Row(values, self._format, self._ragged_keys)

    def __iter__(self) -> Iterator[Row]:
        return (self[row] for row in range(self._rows))

    def _value(self, key: str, row: int) -> Any:
        """A key's value of one row, without padding."""
        values = self.batch[key]
        if key not in self._ragged_keys:
            return values[row]
        lengths = self.batch[key + LENGTHS_SUFFIX]
        length = int(lengths[row])
        if not self._format.padded:
            first = int(lengths[:row].sum())
            return values[first : first + length]
        longest = values.shape[1]
        return values[row, longest - length :] if self._format.pad_left else values[row, :length]


def collate_rows(rows: Sequence[Row], *, collate_fn_map: Mapping[Any, Any] | None = None) -> Batch:
    """Make a batch of rows; called by torch's `default_collate`.

    Args:
        rows: The rows: a `RowBatch`, or rows that something else than a DataLoader put together,
            such as a `ConcatDataset`.
        collate_fn_map: torch's functions; not used.

    Returns:
        Key -> tensor `[rows, ...]`, or `SparseTarget`. Ragged keys are in their format.
    """
    if isinstance(rows, RowBatch):
        return rows.batch
    found: Batch = {}
    for key in rows[0]:
        values = [row[key] for row in rows]
        if key not in rows[0].ragged_keys:
            found[key] = default_collate(values)  # type: ignore[no-untyped-call]
            continue
        joined = torch.cat(values)
        if rows[0].ragged.padded:
            counts = torch.stack([row[key + LENGTHS_SUFFIX] for row in rows])
            ragged = rows[0].ragged
            joined = pad_rows(joined, counts, ragged.value_of(key), left=ragged.pad_left)
        found[key] = joined
    return found


# torch's documentation says to extend `default_collate` so.
default_collate_fn_map[Row] = collate_rows
