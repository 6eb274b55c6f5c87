"""Divergences of two distributions over a vocabulary, one number for each position.

Logits enter in float32 or float64, `[n, V]`; float32 or float64 `[n]` leaves. Natural logarithms
throughout: the unit is the nat. Knows nothing of rows, masks or chunks.

p is the student's distribution, t the teacher's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from tutelage.consumers.losses.candidates import Candidates
from tutelage.consumers.losses.entries import LEAST, Entries
from tutelage.consumers.losses.sampled import drawn_cross_entropy


def log_probabilities(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return `log softmax(logits / temperature)`, at least `LEAST`."""
    return _log_softmax(logits, temperature).clamp_min(LEAST)


def dense_forward_kl(
    logits: torch.Tensor, target: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return KL(t || p) = sum t log(t / p)."""
    return _kl(log_probabilities(target, temperature), log_probabilities(logits, temperature))


def dense_reverse_kl(
    logits: torch.Tensor, target: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return KL(p || t) = sum p log(p / t)."""
    return _kl(log_probabilities(logits, temperature), log_probabilities(target, temperature))


def dense_jsd(
    logits: torch.Tensor, target: torch.Tensor, temperature: float, beta: float
) -> torch.Tensor:
    """Return beta KL(t || m) + (1 - beta) KL(p || m), where m = beta t + (1 - beta) p, 0 < beta < 1."""
    student = log_probabilities(logits, temperature)
    teacher = log_probabilities(target, temperature)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    return beta * _kl(teacher, mixture) + (1 - beta) * _kl(student, mixture)


def sampled_kl(logits: torch.Tensor, entries: Entries, temperature: float) -> torch.Tensor:
    """Return an unbiased estimate of KL(t || p): -sum c/N log p - H(t), with the counts c of N draws."""
    assert entries.entropy is not None, "sampled entries have the entropy"
    scaled = logits if temperature == 1 else logits / temperature
    return drawn_cross_entropy(scaled, entries) - entries.entropy


def top_k_kl(
    logits: torch.Tensor, entries: Entries, temperature: float, ghost: bool
) -> torch.Tensor:
    """Return sum_K t log(t / p), plus t_rest log(t_rest / p_rest) where a ghost is asked for.

    p_rest is the sum over the other ids, not 1 - sum_K p, of which float32 would leave nothing
    where K has almost all probability.
    """
    assert entries.log_probs is not None and entries.tail is not None
    scaled = logits if temperature == 1 else logits / temperature
    total = scaled.logsumexp(-1)
    chosen = entries.gather(scaled) - total[entries.owners]
    value = entries.add_up(entries.weights * (entries.log_probs - chosen.clamp_min(LEAST)))
    if not ghost:
        return value
    rest = entries.replaced(scaled, _negligible(scaled)).logsumexp(-1) - total
    return value + entries.tail.exp() * (entries.tail - rest.clamp_min(LEAST))


def on_candidates(
    logits: torch.Tensor,
    candidates: Candidates,
    measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Return a divergence over the candidates and one class for all other ids.

    The student's probability of that class is the sum over those ids, not 1 less the candidates',
    of which float32 would leave nothing.

    Args:
        logits: The student's, `[n, V]`.
        candidates: Of n positions.
        measure: One of the dense divergences, without its temperature.
    """
    ids = candidates.ids.long()
    total = logits.logsumexp(-1, keepdim=True)
    chosen = logits.gather(-1, ids) - total
    negligible = _negligible(logits).unsqueeze(-1).expand_as(chosen)
    rest = logits.scatter(-1, ids, negligible).logsumexp(-1, keepdim=True) - total
    return measure(torch.cat([chosen, rest], -1), candidates.classes().to(logits.dtype))


def drawn_reverse_kl(logits: torch.Tensor, candidates: Candidates) -> torch.Tensor:
    """Return an estimate of KL(p || t), by ids that were drawn from the student as it was.

    `1/N sum_n w (log p - log t)` with `w = p / q`, where q are the probabilities under which the ids
    were drawn. Its mean over draws is the KL, and that of its gradient, in which log p - log t is
    held constant, the KL's gradient: what is left out, `sum_V p grad(log p)`, is zero.

    Args:
        logits: The student's, `[n, V]`.
        candidates: Of n positions, drawn.
    """
    assert candidates.drawn is not None, "they were drawn"
    ids = candidates.ids.long()
    chosen = torch.log_softmax(logits, -1).gather(-1, ids)
    theirs = candidates.log_probs.to(logits.dtype).clamp_min(LEAST)
    weights = (chosen - candidates.drawn.to(logits.dtype)).exp()
    return (weights * (chosen - theirs).detach()).mean(-1)


def _negligible(logits: torch.Tensor) -> torch.Tensor:
    """Return a logit for each position, `[n]`, whose log-probability is below `LEAST`.

    A position whose logits were all -inf would have NaN as its gradient.
    """
    return logits.amax(-1).detach() + 2 * LEAST


def _log_softmax(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return torch.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)


def _kl(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return KL(first || second) of log-probabilities."""
    return (first.exp() * (first - second)).sum(-1)
