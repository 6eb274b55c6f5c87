"""Logits that are not computed yet: hidden states and the head that turns them into logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from tutelage.schemas.arguments import check_whole_number
from tutelage.schemas.errors import ConfigurationError, SchemaError

#: Bytes of a chunk's vectors as float32. A GPU needs many rows at a time to be busy.
CHUNK_BYTES = 16 << 20
GPU_CHUNK_BYTES = 256 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Projected:
    """What a model may return for a key in place of logits, so that they never exist as a whole.

    The head is called with a chunk of positions at a time, right before they are encoded.

    Args:
        hidden: The hidden states: a tensor `[rows, ..., H]`, or what a ragged key may be, with
            elements `[H]`.
        head: A function from hidden states `[n, H]` to new logits `[n, vocabulary]`; they may be
            changed in place.
        vocabulary: The size of the vocabulary.

    Raises:
        ConfigurationError: `head` is no function, or `vocabulary` no size.
        SchemaError: Only when it is written: the head gives something else.
    """

    hidden: Any
    head: Callable[[torch.Tensor], torch.Tensor]
    vocabulary: int

    def __post_init__(self) -> None:
        if not callable(self.head):
            raise ConfigurationError(
                f"head is a {type(self.head).__name__}; give a function from hidden states [n, H] "
                "to logits [n, vocabulary]"
            )
        check_whole_number("vocabulary", self.vocabulary)


class Vectors:
    """The vectors of one key, of which a chunk is taken at a time.

    Args:
        values: They `[..., size]`, or the hidden states `[..., H]` that they are computed from.
        head: The function that computes them; None if `values` are the vectors.
        size: The size of a vector.
        where: The key, for messages.
    """

    def __init__(
        self,
        values: torch.Tensor,
        head: Callable[[torch.Tensor], torch.Tensor] | None,
        size: int,
        where: str,
    ) -> None:
        self._outer = values.shape[:-1]
        self._count = prod(self._outer)
        try:
            values = values.view(self._count, values.shape[-1])
        except RuntimeError:
            # Such as `logits[:, :-1]`: its chunks are copied, and not all of it.
            pass
        self._values = values
        self._head = head
        self._where = where
        self.size = size
        self.dtype = values.dtype
        self.device = values.device

    def __len__(self) -> int:
        return self._count

    def chunks(self, kept: torch.Tensor | None = None) -> list[tuple[int, int]]:
        """Where chunks of about 16 MiB as float32 begin and end; of 256 MiB on a GPU.

        Args:
            kept: The numbers of the vectors to use, int64; None uses all of them.
        """
        count = len(self) if kept is None else len(kept)
        nbytes = CHUNK_BYTES if self.device.type == "cpu" else GPU_CHUNK_BYTES
        step = max(1, nbytes // (4 * max(1, self.size)))
        return [(start, min(count, start + step)) for start in range(0, count, step)]

    def chunk(
        self, start: int, stop: int, kept: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, bool]:
        """Return some of the vectors, `[n, size]`, and whether they may be changed in place.

        Args:
            start: The first one.
            stop: The one after the last.
            kept: The numbers of the vectors to count, int64; None counts all of them.
        """
        numbers = slice(start, stop) if kept is None else kept[start:stop]
        is_view = kept is None and self._values.ndim == 2
        if self._values.ndim == 2:
            values = self._values[numbers]
        else:
            if isinstance(numbers, slice):
                numbers = torch.arange(start, stop, device=self.device)
            values = self._values[torch.unravel_index(numbers, self._outer)]
        if self._head is None:
            return values, not is_view
        logits = self._head(values)
        expected = (len(values), self.size)
        if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != expected:
            found = (
                list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            )
            raise SchemaError(
                f"{self._where}: the head of a Projected gave {found} for {len(values)} positions, "
                f"not logits of shape {list(expected)}"
            )
        return logits.detach(), True
