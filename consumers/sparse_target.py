"""Distributions over a vocabulary of which a few entries are known: what `Sampled` and `TopK` give.

Knows nothing of records, files or bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch.utils.data._utils.collate import default_collate_fn_map

from tutelage.schemas.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseTarget:
    """The teacher's distributions at the positions of a batch's rows, each as a few entries.

    A position is one distribution over the vocabulary. Row r has `lengths[r]` positions, position p
    has `entries[p]` entries. All rows' positions, and all positions' entries, are concatenated.

    The entries of a *sampled* target are ids that were drawn, with their counts: `counts / draws`
    is an unbiased estimate of the distribution. The entries of a *top-k* target are the most
    probable ids with their log-probabilities; `tail` is the log of the probability of all others.

    Args:
        ids: int32 `[sum of entries]`: ids in the vocabulary; ascending in a position that was
            sampled, the most probable first in one of a top-k target.
        entries: int64 `[positions]`: how many entries each position has.
        lengths: int64 `[rows]`: how many positions each row has.
        vocabulary: The size of the vocabulary. All ids are smaller.
        counts: int32 `[sum of entries]`: how often each id was drawn. None for a top-k target.
        draws: The sum of the counts of each position; 0 for a top-k target.
        entropy: float32 `[positions]`: the entropy of the whole distribution, in nats. None for a
            top-k target. Of a merged target it is the mean of the teachers' entropies.
        log_probs: float32 `[sum of entries]`: natural logarithms of the probabilities, which are
            not renormalised. None for a sampled target.
        tail: float32 `[positions]`: the log of the probability of all ids that are no entry. None
            for a sampled target.
        temperature: The teacher's logits were divided by it.
        tokenizer: The fingerprint of the teachers' tokenizer; empty if none of them gave it.
        tokenizer_of_all: False if only some of the teachers gave it. The tokenizer of the others is
            unknown.
        shape: The shape of one row's positions, such as `(T,)`; `(-1,)` if rows differ in length.
        pad_left: Whether shorter rows are padded on the left where they are padded.

    Raises:
        ConfigurationError: Only when targets that differ are concatenated.
    """

    ids: torch.Tensor
    entries: torch.Tensor
    lengths: torch.Tensor
    vocabulary: int
    counts: torch.Tensor | None = None
    draws: int = 0
    entropy: torch.Tensor | None = None
    log_probs: torch.Tensor | None = None
    tail: torch.Tensor | None = None
    temperature: float = 1.0
    tokenizer: str = ""
    tokenizer_of_all: bool = True
    shape: tuple[int, ...] = (-1,)
    pad_left: bool = False

    @property
    def is_sampled(self) -> bool:
        """Whether its entries were drawn. If not, they are the most probable ones."""
        return self.counts is not None

    @property
    def positions(self) -> int:
        """How many positions all rows have together."""
        return self.entries.shape[0]

    @property
    def device(self) -> torch.device:
        """The device that holds its tensors."""
        return self.ids.device

    def to(self, *args: Any, **kwargs: Any) -> SparseTarget:
        """Return the target on another device.

        Args:
            *args: As for `torch.Tensor.to`; a dtype is ignored.
            **kwargs: Likewise, such as `non_blocking`.

        Returns:
            The target there; the same tensors where they are there already.
        """
        there = torch.empty(0, device=self.device).to(*args, **kwargs).device
        non_blocking = bool(kwargs.get("non_blocking", False))
        return self._map(lambda tensor: tensor.to(there, non_blocking=non_blocking))

    def pin_memory(self, device: Any = None) -> SparseTarget:
        """Return the target in pinned memory, from which copies to a GPU need not be waited for.

        Args:
            device: As for `torch.Tensor.pin_memory`; not used.

        Returns:
            The target.
        """
        return self._map(lambda tensor: tensor.pin_memory())

    def dense(self) -> torch.Tensor:
        """Return the (estimated) distributions; for tests, since they are large.

        Returns:
            float32 `[positions, vocabulary]`. The rows of a sampled target add up to 1. Those of a
            top-k target add up to less: the tail is left out.
        """
        values = self.probabilities()
        out = torch.zeros(self.positions, self.vocabulary, device=self.device)
        out[self.owners(), self.ids.long()] = values
        return out

    def probabilities(self) -> torch.Tensor:
        """Return the (estimated) probability of each entry.

        Returns:
            float32 `[sum of entries]`.
        """
        if self.counts is not None:
            return self.counts.float() / self.draws
        assert self.log_probs is not None, "a target has counts or log-probabilities"
        return self.log_probs.float().exp()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return its tensors.

        Returns:
            Attribute -> tensor, without those that are None.
        """
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: each for name, each in found.items() if isinstance(each, torch.Tensor)}

    def tolist(self) -> list[list[list[list[float]]]]:
        """Return the entries as Python numbers, per row and position.

        Returns:
            For each row a list of positions, each a list of `[id, count]`, or of
            `[id, log-probability]` of a top-k target.
        """
        values = self.counts if self.counts is not None else self.log_probs
        assert values is not None, "a target has counts or log-probabilities"
        pairs = list(map(list, zip(self.ids.tolist(), values.tolist(), strict=True)))
        positions, start = [], 0
        for count in self.entries.tolist():
            positions.append(pairs[start : start + count])
            start += count
        rows, start = [], 0
        for count in self.lengths.tolist():
            rows.append(positions[start : start + count])
            start += count
        return rows

    def owners(self) -> torch.Tensor:
        """Return the position of each entry.

        Returns:
            int64 `[sum of entries]`.
        """
        indices = torch.arange(self.positions, device=self.device)
        return torch.repeat_interleave(indices, self.entries, output_size=self.ids.shape[0])

    def __len__(self) -> int:
        return self.lengths.shape[0]

    def __getitem__(self, index: int | slice) -> SparseTarget:
        """Return some rows, as views; one row keeps its dimension.

        Args:
            index: The number of a row, or a slice of step 1.

        Raises:
            IndexError: There is no such row.
        """
        rows = len(self)
        if isinstance(index, slice):
            start, stop, step = index.indices(rows)
            if step != 1:
                raise IndexError("a SparseTarget is sliced with step 1")
            stop = max(start, stop)
        else:
            start = range(rows)[index]
            stop = start + 1
        first = int(self.lengths[:start].sum())
        last = first + int(self.lengths[start:stop].sum())
        begin = int(self.entries[:first].sum())
        end = begin + int(self.entries[first:last].sum())
        cuts = {"lengths": slice(start, stop)}
        cuts |= {name: slice(first, last) for name in ("entries", "entropy", "tail")}
        cuts |= {name: slice(begin, end) for name in ("ids", "counts", "log_probs")}
        parts: dict[str, Any] = {
            name: None if getattr(self, name) is None else getattr(self, name)[cut]
            for name, cut in cuts.items()
        }
        return replace(self, **parts)

    def __iter__(self) -> Iterator[SparseTarget]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        kind = f"{self.draws} draws" if self.is_sampled else "top-k"
        mean = self.ids.shape[0] / max(1, self.positions)
        place = "" if self.device.type == "cpu" else f", on {self.device}"
        heat = "" if self.temperature == 1 else f", temperature {self.temperature:g}"
        return (
            f"SparseTarget({kind}, {len(self)} rows, {self.positions} positions, {mean:.1f} entries "
            f"each, vocabulary {self.vocabulary:,}{heat}{place})"
        )

    @staticmethod
    def cat(targets: Sequence[SparseTarget]) -> SparseTarget:
        """Concatenate the rows of several targets.

        Args:
            targets: At least one, all of the same kind, draws, vocabulary, temperature and
                tokenizer.

        Returns:
            Their rows in order.

        Raises:
            ConfigurationError: They differ, or there is none.
        """
        if not targets:
            raise ConfigurationError("SparseTarget.cat was given no targets")
        first = targets[0]
        for name in _EQUAL:
            values = [getattr(target, name) for target in targets]
            if len(set(values)) > 1:
                raise ConfigurationError(
                    f"targets of different {name} cannot be concatenated: "
                    f"{', '.join(map(repr, dict.fromkeys(values)))}"
                )
        joined: dict[str, Any] = {
            name: torch.cat([getattr(target, name) for target in targets])
            for name in first.tensors()
        }
        shapes = {target.shape for target in targets}
        return replace(first, **joined, shape=first.shape if len(shapes) == 1 else (-1,))

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> SparseTarget:
        changed: dict[str, Any] = {name: change(getattr(self, name)) for name in self.tensors()}
        return replace(self, **changed)


# What targets have in common that are concatenated.
_EQUAL = (
    "is_sampled",
    "draws",
    "vocabulary",
    "temperature",
    "tokenizer",
    "tokenizer_of_all",
    "pad_left",
)


def _collate(
    batch: Sequence[SparseTarget], *, collate_fn_map: Mapping[Any, Any] | None = None
) -> SparseTarget:
    return SparseTarget.cat(batch)


# What torch's `default_collate` does with targets, as its documentation says to extend it.
default_collate_fn_map[SparseTarget] = _collate
