"""Batches of tokens with their masks -> which positions carry knowledge.

Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tutelage.schemas.errors import ConfigurationError
from tutelage.schemas.record import Ragged

# What `transformers` puts in place of labels that are not trained on.
_IGNORED_LABEL = -100


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rows:
    """Some positions of `[rows, T]`, or all.

    Args:
        kept: The numbers of the positions in the flattened batch, int64 `[n]`; None for all.
        lengths: How many positions each row keeps, int64 `[rows]`; None for all.
    """

    kept: torch.Tensor | None
    lengths: torch.Tensor | None

    @classmethod
    def where(cls, mask: torch.Tensor | None) -> Rows:
        """The positions where a mask `[rows, T]` holds; all if it is None.

        From a GPU the mask is waited for. So this is called before the model.
        """
        if mask is None:
            return cls(kept=None, lengths=None)
        return cls(kept=mask.flatten().nonzero()[:, 0], lengths=mask.sum(1))

    def of(self, values: torch.Tensor) -> Any:
        """Return the values `[rows, T, ...]` at these positions, ragged unless all are kept."""
        if self.kept is None:
            return values
        return Ragged(values.flatten(0, 1)[self.kept], self.lengths)  # type: ignore[arg-type]

    def shaped(self, values: torch.Tensor, shape: torch.Size) -> Any:
        """Return values `[n, ...]` of these positions in their rows, ragged unless all are kept.

        Args:
            values: What was computed of the positions, one after the other.
            shape: `[rows, T]`.
        """
        if self.kept is None:
            return values.reshape(*shape, *values.shape[1:])
        return Ragged(values, self.lengths)  # type: ignore[arg-type]


class TokenBatch:
    """A batch of token ids and what tells its texts, its padding and its targets.

    Args:
        batch: `input_ids` `[rows, T]`, and in the same shape any of `attention_mask`,
            `position_ids`, `loss_mask` and `labels`; see `CausalLMTeacher`.

    Raises:
        ConfigurationError: It has no `input_ids`, or shapes differ.
    """

    def __init__(self, batch: Mapping[str, torch.Tensor]) -> None:
        ids = batch.get("input_ids") if isinstance(batch, Mapping) else None
        if ids is None or ids.ndim != 2:
            got = type(batch).__name__ if ids is None else f"one with {list(ids.shape)}"
            raise ConfigurationError(
                f"a batch must be a mapping with input_ids [rows, T]; this one is a {got}"
            )
        for name in ("attention_mask", "position_ids", "loss_mask", "labels"):
            if name in batch and batch[name].shape != ids.shape:
                raise ConfigurationError(
                    f"{name} is {list(batch[name].shape)}, and input_ids {list(ids.shape)}; they "
                    "must have the same shape"
                )
        self.ids = ids
        self.mask = batch.get("attention_mask")
        self.positions = batch.get("position_ids")
        self._targets: torch.Tensor | None = None
        if "loss_mask" in batch:
            self._targets = batch["loss_mask"] != 0
        elif "labels" in batch:
            self._targets = batch["labels"] != _IGNORED_LABEL

    @property
    def kind(self) -> str:
        """`packed` if its positions tell texts apart, `padded` if a mask does, else `whole`."""
        if self.positions is not None:
            return "packed"
        return "whole" if self.mask is None else "padded"

    def real(self) -> torch.Tensor:
        """Which positions are no padding, bool `[rows, T]`."""
        return torch.ones_like(self.ids, dtype=torch.bool) if self.mask is None else self.mask != 0

    def trained(self) -> torch.Tensor | None:
        """The positions whose next token is a target of the same text; None for all that are real."""
        if self._targets is None:
            return None
        real = self.real()
        kept = torch.zeros_like(real)
        kept[:, :-1] = self._targets[:, 1:] & real[:, 1:] & real[:, :-1]
        if self.positions is not None:
            kept[:, :-1] &= ~self._begins_again()
        return kept

    @property
    def is_packed(self) -> bool:
        """Whether a row holds several texts: positions begin again between its tokens."""
        if self.positions is None:
            return False
        real = self.real()
        return bool((self._begins_again() & real[:, 1:] & real[:, :-1]).any())

    def _begins_again(self) -> torch.Tensor:
        """Which positions do not follow the one before, bool `[rows, T - 1]`."""
        assert self.positions is not None, "called for batches with positions"
        return self.positions[:, 1:] != self.positions[:, :-1] + 1

    def positions_apart(self) -> torch.Tensor:
        """`position_ids` that tell the texts of a row, and padding, apart: int64 `[rows, T]`.

        `transformers` begins a new text where a position is not the one before plus 1. Positions of
        padding may not lead up to those of the text behind it, so they are all the text's first.
        """
        assert self.positions is not None, "called for packed batches"
        real = self.real()
        first = self.positions.gather(1, real.int().argmax(1, keepdim=True))
        return torch.where(real, self.positions, first).long()

    def inner_text(self, most: int) -> tuple[int, int, int] | None:
        """A text that has something before it in its row: row, first position, end; None if none has.

        Args:
            most: How many tokens of it to return at most.
        """
        real = self.real()
        begins = real.clone()
        begins[:, 1:] &= ~real[:, :-1]
        if self.positions is not None:
            begins[:, 1:] |= real[:, 1:] & self._begins_again()
        begins[:, 0] = False
        found = begins.nonzero()
        if not len(found):
            return None
        row, start = found[0].tolist()
        ends = (begins | ~real)[row, start + 1 :].nonzero()
        length = int(ends[0]) + 1 if len(ends) else self.ids.shape[1] - start
        return row, start, start + min(length, most)
