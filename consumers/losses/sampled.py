"""The cross-entropy of drawn ids: an autograd function with one pass over the vocabulary each way.

Scaled logits `[n, V]` and entries enter; `[n]` leaves. The graph that torch makes of `log_softmax`
and `gather` needs a dense gradient of the gathered values and a second exponential: from a file,
loss and gradient took 1.2 times as long (512 positions of 49,152 ids on one core).
"""

from __future__ import annotations

from typing import Any

import torch

from tutelage.consumers.losses.entries import LEAST, Entries


def drawn_cross_entropy(logits: torch.Tensor, entries: Entries) -> torch.Tensor:
    """Return `-sum w log p` over each position's entries, with `p = softmax(logits)`.

    Log-probabilities below `LEAST` count as `LEAST`, and have no gradient. Second derivatives work.

    Args:
        logits: float32 or float64 `[n, V]`.
        entries: The entries of n positions, with their weights w.
    """
    if torch.compiler.is_compiling():
        # The compiler fuses these passes itself.
        return _by_operators(logits, entries.ids, entries.owners, entries.weights)
    found: torch.Tensor = _DrawnCrossEntropy.apply(
        logits, entries.ids, entries.owners, entries.weights
    )
    return found


class _DrawnCrossEntropy(torch.autograd.Function):
    """`drawn_cross_entropy`, with its gradient `p sum w - w` written in one pass."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        ids: torch.Tensor,
        owners: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        probabilities = torch.softmax(logits, dim=-1)
        # The largest probability is at least 1/V, so its logarithm is exact to rounding.
        total = logits.amax(-1) - probabilities.amax(-1).log()
        places = owners * logits.shape[-1] + ids
        chosen = logits.reshape(-1)[places] - total[owners]
        kept = torch.where(chosen >= LEAST, weights.to(logits.dtype), 0)
        ctx.save_for_backward(logits, ids, owners, weights, probabilities, places, kept)
        values = weights * chosen.clamp_min(LEAST)
        return -logits.new_zeros(logits.shape[0]).index_add(0, owners, values)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        logits, ids, owners, weights, probabilities, places, kept = ctx.saved_tensors
        if torch.is_grad_enabled():
            # Asked for with create_graph=True.
            value = _by_operators(logits, ids, owners, weights)
            found = torch.autograd.grad(value, logits, gradient, create_graph=True)
            return found[0], None, None, None
        sums = gradient.new_zeros(gradient.shape).index_add(0, owners, kept)
        result = probabilities * (gradient * sums).unsqueeze(-1)
        result.view(-1).index_add_(0, places, -kept * gradient[owners])
        return result, None, None, None


def _by_operators(
    logits: torch.Tensor, ids: torch.Tensor, owners: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """The same by torch's operators."""
    places = owners * logits.shape[-1] + ids
    chosen = torch.log_softmax(logits, dim=-1).reshape(-1).gather(0, places).clamp_min(LEAST)
    return -logits.new_zeros(logits.shape[0]).index_add(0, owners, weights * chosen)
