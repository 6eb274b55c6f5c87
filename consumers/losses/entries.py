"""`Entries`: what the losses need of a `SparseTarget`, position by position, whatever its rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tutelage.consumers.sparse_target import SparseTarget
from tutelage.schemas.errors import ConfigurationError

# Log-probabilities below it count as it. A masked token has the logit -inf (or the least number of
# a dtype), with which sums would be infinite and gradients undefined. exp(-10,000) is 0 even in
# float64, and the logits of models differ by hundreds.
LEAST = -10_000.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Entries:
    """The entries of n positions, E together.

    Args:
        ids: int64 `[E]`.
        owners: int64 `[E]`: the position of each entry, ascending from 0.
        counts: int64 `[n]`: how many entries each position has.
        weights: float32 `[E]`: the (estimated) probabilities.
        entropy: float32 `[n]`, of sampled positions.
        log_probs: float32 `[E]`, of top-k positions.
        tail: float32 `[n]`, of top-k positions: the log of the probability of all other ids.
    """

    ids: torch.Tensor
    owners: torch.Tensor
    counts: torch.Tensor
    weights: torch.Tensor
    entropy: torch.Tensor | None = None
    log_probs: torch.Tensor | None = None
    tail: torch.Tensor | None = None

    @classmethod
    def of(cls, target: SparseTarget, index: torch.Tensor | None = None) -> Entries:
        """Return a target's entries, at all its positions or at some.

        Args:
            target: The target.
            index: int64 `[n]`: the positions, ascending; None for all.

        Raises:
            ConfigurationError: An id is outside the vocabulary, or the numbers of entries do not
                add up. Neither is looked at while `torch.compile` traces.
        """
        if not torch.compiler.is_compiling():
            _check(target)
        owners = target.owners()
        parts = {
            "ids": target.ids.long(),
            "weights": target.probabilities(),
            "log_probs": _bounded(target.log_probs),
        }
        whole = {
            "counts": target.entries,
            "entropy": None if target.entropy is None else target.entropy.float(),
            "tail": _bounded(target.tail),
        }
        if index is not None:
            number = torch.full((target.positions,), -1, dtype=torch.int64, device=target.device)
            number[index] = torch.arange(index.shape[0], device=target.device)
            kept = number[owners] >= 0
            owners = number[owners][kept]
            parts = {name: None if each is None else each[kept] for name, each in parts.items()}
            whole = {name: None if each is None else each[index] for name, each in whole.items()}
        return cls(owners=owners, **parts, **whole)  # type: ignore[arg-type]

    @property
    def positions(self) -> int:
        """How many positions there are."""
        return self.counts.shape[0]

    def cut(self, positions: slice, entries: slice) -> Entries:
        """Return some adjacent positions, with their entries."""
        entropy, log_probs, tail = self.entropy, self.log_probs, self.tail
        return Entries(
            ids=self.ids[entries],
            owners=self.owners[entries] - positions.start,
            counts=self.counts[positions],
            weights=self.weights[entries],
            entropy=None if entropy is None else entropy[positions],
            log_probs=None if log_probs is None else log_probs[entries],
            tail=None if tail is None else tail[positions],
        )

    def bounds(self, size: int) -> list[int]:
        """Return where the entries of chunks of `size` positions begin, and where the last end."""
        if not self.positions:
            return [0]
        ends = self.counts.cumsum(0)[size - 1 :: size].tolist()
        last = self.ids.shape[0]
        return [0, *ends] if self.positions % size == 0 else [0, *ends, last]

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """Return the value of each entry's id at its position: `[n, V]` -> `[E]`."""
        return values.reshape(-1).gather(0, self._places(values))

    def replaced(self, values: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        """Return a copy of `[n, V]` in which all entries of position i have the value `by[i]`."""
        flat = values.reshape(-1).scatter(0, self._places(values), by[self.owners])
        return flat.view(values.shape)

    def add_up(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over each position's entries: `[E]` -> `[n]`."""
        return values.new_zeros(self.positions).index_add(0, self.owners, values)

    def _places(self, values: torch.Tensor) -> torch.Tensor:
        return self.owners * values.shape[-1] + self.ids


def _bounded(values: torch.Tensor | None) -> torch.Tensor | None:
    """Return log-probabilities with the least for -inf, whose product with 0 would be NaN."""
    return None if values is None else values.float().clamp_min(LEAST)


def _check(target: SparseTarget) -> None:
    """Raise where the values of a target contradict each other; one wait for the device."""
    ids = target.ids
    if int(target.entries.sum()) != ids.shape[0]:
        raise ConfigurationError(
            f"{target}: its positions have {int(target.entries.sum())} entries together, but there "
            f"are {ids.shape[0]} ids"
        )
    if ids.shape[0]:
        least, most = (int(each) for each in torch.aminmax(ids))
        if least < 0 or most >= target.vocabulary:
            raise ConfigurationError(
                f"{target} has ids from {least} to {most}; in its vocabulary they are from 0 to "
                f"{target.vocabulary - 1}"
            )
