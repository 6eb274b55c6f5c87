"""`Projection`: logits that are not computed yet, as hidden states and a head."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tutelage.consumers.losses.head import Head
from tutelage.schemas.errors import ConfigurationError


@dataclass(frozen=True, eq=False)
class Projection:
    """Hidden states and the head that makes logits of them.

    A loss that is given a projection computes its logits in chunks of positions, so that
    `[positions, vocabulary]` never exists.

    Args:
        hidden: `[..., H]`, of a floating dtype: the hidden states that `head` expects.
        head: The head.

    Raises:
        ConfigurationError: The hidden states and the head differ in width or device.
    """

    hidden: torch.Tensor
    head: Head

    def __post_init__(self) -> None:
        hidden, weight = self.hidden, self.head.weight
        if hidden.dim() < 2 or not hidden.is_floating_point():
            raise ConfigurationError(
                f"hidden states are {hidden.dtype} {list(hidden.shape)}; they must be [..., H], "
                f"of a floating dtype"
            )
        if hidden.shape[-1] != weight.shape[1]:
            raise ConfigurationError(
                f"hidden states of width {hidden.shape[-1]} do not fit {self.head}, whose width is "
                f"{weight.shape[1]}"
            )
        if hidden.device != weight.device:
            raise ConfigurationError(
                f"the hidden states are on {hidden.device}, {self.head} on {weight.device}; move "
                f"one with .to(device)"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the logits, `[..., vocabulary]`."""
        return (*self.hidden.shape[:-1], self.head.vocabulary)

    @property
    def device(self) -> torch.device:
        """The device of hidden states and head."""
        return self.hidden.device

    def logits(self) -> torch.Tensor:
        """Compute all logits at once, float32 `[..., vocabulary]`: for tests and small models."""
        return self.head.logits(self.hidden)

    def __repr__(self) -> str:
        return f"Projection({list(self.hidden.shape)}, {self.head})"
