"""Targets for the losses: what teachers would make of given logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tutelage.consumers.sparse_target import SparseTarget


def sampled(
    logits: torch.Tensor,
    *,
    draws: int = 8,
    seed: int = 0,
    temperature: float = 1.0,
    lengths: Sequence[int] | None = None,
    pad_left: bool = False,
    tokenizer: str = "",
) -> SparseTarget:
    """A sampled target of logits `[positions, V]` or `[rows, T, V]`: independent draws."""
    flat = logits.reshape(-1, logits.shape[-1]).float() / temperature
    probabilities = flat.softmax(-1)
    counts = torch.zeros_like(probabilities, dtype=torch.int32)
    if flat.shape[0]:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.multinomial(probabilities, draws, replacement=True, generator=generator)
        counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.int32))
    owners, ids = counts.nonzero(as_tuple=True)
    return SparseTarget(
        ids=ids.int(),
        counts=counts[owners, ids],
        entries=(counts > 0).sum(1),
        lengths=row_lengths(logits, lengths),
        vocabulary=logits.shape[-1],
        draws=draws,
        entropy=torch.special.entr(probabilities).sum(-1),
        temperature=temperature,
        tokenizer=tokenizer,
        shape=(-1,) if lengths is not None or logits.dim() == 2 else tuple(logits.shape[1:-1]),
        pad_left=pad_left,
    )


def top_k(
    logits: torch.Tensor,
    k: int,
    *,
    temperature: float = 1.0,
    lengths: Sequence[int] | None = None,
    pad_left: bool = False,
) -> SparseTarget:
    """A top-k target of logits `[positions, V]` or `[rows, T, V]`."""
    flat = logits.reshape(-1, logits.shape[-1]).float() / temperature
    log_probs = flat.log_softmax(-1)
    values, ids = log_probs.topk(k, dim=-1)
    others = log_probs.scatter(1, ids, -torch.inf)
    return SparseTarget(
        ids=ids.flatten().int(),
        log_probs=values.flatten(),
        tail=torch.logsumexp(others, -1),
        entries=torch.full((flat.shape[0],), k),
        lengths=row_lengths(logits, lengths),
        vocabulary=logits.shape[-1],
        temperature=temperature,
        shape=(-1,) if lengths is not None or logits.dim() == 2 else tuple(logits.shape[1:-1]),
        pad_left=pad_left,
    )


def row_lengths(logits: torch.Tensor, lengths: Sequence[int] | None) -> torch.Tensor:
    """One row of all positions, or the rows of a tensor, unless lengths are given."""
    if lengths is not None:
        return torch.tensor(lengths, dtype=torch.int64)
    if logits.dim() == 2:
        return torch.tensor([logits.shape[0]])
    return torch.full((logits.shape[0],), logits.shape[1:-1].numel())
