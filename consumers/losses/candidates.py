"""`Candidates`: a teacher's log-probabilities of ids that the student chose."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tutelage.schemas.errors import ConfigurationError


@dataclass(frozen=True, eq=False)
class Candidates:
    """What a teacher says of some ids at each position, and of all others together.

    The student chooses the ids, such as its own most probable ones, and asks. So the target of a
    position is a distribution over K + 1 classes: the K candidates, and one for all other ids. Of
    the student the same classes are compared. A divergence of classes is at most that of the ids
    themselves (log sum inequality: Cover and Thomas 2006, theorem 2.7.1), and is near to it where
    the candidates have almost all of the student's probability.

    Args:
        ids: Integers `[..., K]`: the candidates, each once at a position. K is at least 1.
        log_probs: The teacher's log-probabilities of them `[..., K]`, of a floating dtype.
        tail: `[...]`, of a floating dtype: the log of the teacher's probability of all other ids.

    Raises:
        ConfigurationError: Shapes, dtypes or devices do not fit together.
    """

    ids: torch.Tensor
    log_probs: torch.Tensor
    tail: torch.Tensor

    def __post_init__(self) -> None:
        ids, log_probs, tail = self.ids, self.log_probs, self.tail
        if ids.dim() < 2 or ids.is_floating_point() or ids.dtype == torch.bool or not ids.shape[-1]:
            raise ConfigurationError(
                f"candidates are {ids.dtype} {list(ids.shape)}; they must be integers [..., K]"
            )
        if log_probs.shape != ids.shape or not log_probs.is_floating_point():
            raise ConfigurationError(
                f"log_probs are {log_probs.dtype} {list(log_probs.shape)}; they must be of a floating "
                f"dtype, one for each of the candidates {list(ids.shape)}"
            )
        if tail.shape != ids.shape[:-1] or not tail.is_floating_point():
            raise ConfigurationError(
                f"tail is {tail.dtype} {list(tail.shape)}; it must be of a floating dtype, one for "
                f"each position {list(ids.shape[:-1])}"
            )
        if len({ids.device, log_probs.device, tail.device}) > 1:
            raise ConfigurationError(
                f"the candidates are on {ids.device}, log_probs on {log_probs.device} and tail on "
                f"{tail.device}; move them to one device"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the ids, `[..., K]`."""
        return tuple(self.ids.shape)

    @property
    def device(self) -> torch.device:
        """The device of all tensors."""
        return self.ids.device

    def to(self, device: torch.device | str | int) -> Candidates:
        """Return the candidates on a device."""
        return Candidates(self.ids.to(device), self.log_probs.to(device), self.tail.to(device))

    def classes(self) -> torch.Tensor:
        """Return the teacher's log-probabilities of the K + 1 classes, float32 or float64 `[..., K + 1]`."""
        both = torch.cat([self.log_probs, self.tail.to(self.log_probs.dtype).unsqueeze(-1)], -1)
        return both if both.dtype == torch.float64 else both.float()

    def take(self, index: torch.Tensor | None) -> Candidates:
        """Return some positions, or all, one after the other: ids `[n, K]`, without gradients.

        Args:
            index: int64 `[n]`: the positions in flattened order; None for all.
        """
        log_probs, tail = self.log_probs.detach(), self.tail.detach()
        flat = (self.ids.flatten(0, -2), log_probs.flatten(0, -2), tail.flatten())
        if index is not None:
            flat = tuple(each.index_select(0, index.to(each.device)) for each in flat)  # type: ignore[assignment]
        return Candidates(*flat)

    def cut(self, start: int, stop: int) -> Candidates:
        """Return some adjacent positions of `[n, K]`."""
        return Candidates(self.ids[start:stop], self.log_probs[start:stop], self.tail[start:stop])

    def check(self, vocabulary: int) -> None:
        """Raise unless all ids are of a vocabulary, each once at a position.

        One wait for the device. Nothing is looked at while `torch.compile` traces.

        Raises:
            ConfigurationError: An id is outside the vocabulary, or a position has one twice.
        """
        if torch.compiler.is_compiling() or not self.ids.numel():
            return
        ordered = self.ids.sort(-1).values
        twice = (ordered[..., 1:] == ordered[..., :-1]).any()
        least, most, repeated = (int(each) for each in (*torch.aminmax(ordered), twice))
        if least < 0 or most >= vocabulary:
            raise ConfigurationError(
                f"the candidates have ids from {least} to {most}; in the student's vocabulary they "
                f"are from 0 to {vocabulary - 1}"
            )
        if repeated:
            raise ConfigurationError(
                "a position has the same candidate twice, which would count twice; give each id "
                "once, such as logits.topk(K).indices"
            )

    def __repr__(self) -> str:
        return f"Candidates({self.shape[-1]} ids at each of {list(self.shape[:-1])} positions)"
