"""What a batch gets besides the teachers' keys: the weights of its rows, and where it ends."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from tutelage.consumers.sparse_target import SparseTarget
from tutelage.consumers.stages.batches import Batch
from tutelage.consumers.stages.merge import LENGTHS_SUFFIX
from tutelage.schemas.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True, slots=True)
class Extras:
    """Adds tensors to batches.

    Args:
        weight_key: The key of the weights; None for no weights.
        position_key: The key of the position; None for no position.
        pad_empty: Whether a batch without rows gets one of zeros, with weight 0.
        ranks: How many ranks share a batch.
        flat: Whether ragged keys are given without padding.
    """

    weight_key: str | None = None
    position_key: str | None = None
    pad_empty: bool = False
    ranks: int = 1
    flat: bool = False

    @property
    def wanted(self) -> bool:
        """Whether there is anything to add."""
        return self.weight_key is not None or self.position_key is not None

    def check_new(self, keys: Iterable[str]) -> None:
        """Check that the teachers have no such keys.

        Raises:
            ConfigurationError: They have one.
        """
        taken = {name for key in keys for name in (key, key + LENGTHS_SUFFIX)}
        for key in (self.weight_key, self.position_key):
            if key in taken:
                raise ConfigurationError(
                    f"a teacher has a key {key!r} already; choose another weight_key or "
                    "position_key"
                )

    def add(self, batch: Batch, *, rows: int, global_rows: int, position: tuple[int, ...]) -> Batch:
        """Add to a batch.

        Args:
            batch: The batch.
            rows: Its rows.
            global_rows: The rows that all ranks have of it.
            position: The pass, the batches and rows of it that were given with this batch, and the
                rows of a batch.
        """
        padded = self.pad_empty and not rows
        if padded:
            batch = {
                key: value
                if self.flat and key + LENGTHS_SUFFIX in batch and isinstance(value, torch.Tensor)
                else _one_row(value)
                for key, value in batch.items()
            }
        if self.weight_key is not None:
            # Data-parallel training averages the gradients of all ranks.
            weight = 0.0 if padded else self.ranks / global_rows
            batch[self.weight_key] = torch.full(
                (1 if padded else rows,), weight, dtype=torch.float32
            )
        if self.position_key is not None:
            batch[self.position_key] = torch.tensor(position)
        return batch


def _one_row(value: Any) -> Any:
    """A row of zeros in place of none; for distributions one that is certain of id 0."""
    if not isinstance(value, SparseTarget):
        shape = (1, *(max(1, size) for size in value.shape[1:]))
        return torch.zeros(shape, dtype=value.dtype)
    positions = 0 if -1 in value.shape else math.prod(value.shape)
    zeros, ones = torch.zeros(positions), torch.ones(positions, dtype=torch.int64)
    sampled = value.is_sampled
    return replace(
        value,
        ids=ones.int() * 0,
        entries=ones,
        lengths=torch.tensor([positions]),
        counts=ones.int() * value.draws if sampled else None,
        entropy=zeros if sampled else None,
        log_probs=None if sampled else zeros,
        tail=None if sampled else torch.full((positions,), -torch.inf),
    )
