"""The losses: divergences between a student's distributions and a teacher's.

Each takes logits as tensors or as a `Projection`, and returns float32 (float64 where logits are).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from tutelage.consumers.losses import divergences
from tutelage.consumers.losses.candidates import Candidates
from tutelage.consumers.losses.evaluation import AnyTarget, Logits, Options, Reduction, evaluate
from tutelage.consumers.sparse_target import SparseTarget
from tutelage.schemas.arguments import check_choice, check_real_number
from tutelage.schemas.errors import ConfigurationError

# Logits of student and teacher and the keyword `temperature` -> one number a position.
_Dense = Callable[..., torch.Tensor]


def forward_kl(
    student: Logits,
    target: AnyTarget,
    *,
    mask: torch.Tensor | None = None,
    temperature: float | None = None,
    reduction: Reduction = "mean",
    tail: str = "ghost",
    tokenizer: str | None = None,
    chunk_positions: int | None = None,
) -> torch.Tensor:
    """Return KL(teacher || student) = sum_i t_i log(t_i / p_i), in nats: the loss of distillation.

    With t the teacher's and p the student's probabilities at a position, both at the temperature
    (Hinton et al. 2015, arXiv 1503.02531; the value is **not** multiplied by T squared):

    - Target of logits: all ids are summed over.
    - Sampled target: `-sum_i c_i/N log p_i - H(t)`, with the counts c of N draws and the stored
      entropy H (RS-KD, ACL 2025, arXiv 2503.16870). Value and gradient are unbiased estimates of
      those of the full sum. The entropy is constant for the student: the gradient is that of the
      cross-entropy. An estimate can be below zero.
    - Top-k target: over the k ids K and one ghost class for all others,
      `sum_K t log(t/p) + t_rest log(t_rest/p_rest)`. It is at most the full sum, and biased: how
      the others share their probability is not learned.
    - Candidates, which the student chose: likewise, with the candidates as K.

    Log-probabilities below -10,000 count as -10,000: an id that one side excludes with a logit of
    -inf costs 10,000 nats times its probability on the other side, instead of infinity or NaN.

    Args:
        student: Logits `[rows, T, V]` or `[positions, V]` of any floating dtype, or a `Projection`
            of hidden states of such shapes. They are measured in float32 at least.
        target: Logits or a `Projection` of the same positions and vocabulary, `Candidates` of the
            same positions, or a `SparseTarget`. No gradient reaches it.
        mask: `[rows, T]`: nonzero where a position of the student counts. The target then has all T
            positions of each row, of which the others are left out, or exactly the mask's. Without
            it all of the target's positions count: those of ragged rows are the first `lengths[r]`
            of row r, or the last if `target.pad_left`.
        temperature: The logits of both are divided by it. None for the target's own, which is 1 for
            logits. A sparse target cannot be brought to another.
        reduction: "mean" over the positions that count (0 if there are none), "sum", or "none" for
            one value a position, `[positions]`.
        tail: For top-k targets: "ghost" as above, or "ignore" for `sum_K t log(t/p)` alone. That is
            for comparisons: its gradient `(sum_K t) p - t` is least at probabilities that are scaled
            up to add up to 1 on K.
        tokenizer: The fingerprint of the student's tokenizer, to compare with the target's.
        chunk_positions: How many positions are computed at a time. None for as many as make 64 MiB
            of float32 logits (256 MiB on a GPU) where there is a `Projection`, and for all at once
            where there is none. Chunks take less memory, have no second derivatives, and are not
            compiled by `torch.compile`.

    Returns:
        The loss, `[]` or `[positions]`.

    Raises:
        ConfigurationError: Student and target differ in vocabulary, temperature, tokenizer, device,
            shape or positions, or an argument is not what it must be.
    """
    check_choice("tail", tail, ("ghost", "ignore"))
    options = _options(mask, temperature, reduction, tokenizer, chunk_positions)
    heat = options.temperature_of(target)
    if not isinstance(target, SparseTarget):
        return _dense(student, target, divergences.dense_forward_kl, heat, options)
    if not target.is_sampled:
        if target.log_probs is None or target.tail is None:
            raise ConfigurationError(
                f"{target} has neither counts nor log-probabilities and a tail"
            )
        ghost = tail == "ghost"
        measure = partial(divergences.top_k_kl, temperature=heat, ghost=ghost)
        return evaluate(student, target, measure, options)
    if target.entropy is None or not target.draws:
        raise ConfigurationError(
            f"{target} has counts, but not the number of draws and the entropy"
        )
    return evaluate(student, target, partial(divergences.sampled_kl, temperature=heat), options)


def reverse_kl(
    student: Logits,
    target: Logits | Candidates,
    *,
    mask: torch.Tensor | None = None,
    temperature: float | None = None,
    reduction: Reduction = "mean",
    tokenizer: str | None = None,
    chunk_positions: int | None = None,
) -> torch.Tensor:
    """Return KL(student || teacher) = sum_i p_i log(p_i / t_i), in nats.

    It seeks modes: the student is not punished for what it leaves out, but for all that the teacher
    finds improbable (MiniLLM, arXiv 2306.08543). All of its other rules are those of `forward_kl`.

    Of candidates that were drawn (`draw_candidates`) it is `1/N sum_n w log(p/t)`, where the weight
    `w = p/q` corrects for the student's having changed since it drew under q. In the mean over
    draws, the value is the full sum and the gradient its gradient. A single value can be below
    zero.

    Of other candidates K it is `sum_K p log(p/t) + p_rest log(p_rest/t_rest)`, with one class for all
    other ids: exact on these K + 1 classes, and at most the full sum (see `Candidates`). Which ids
    are candidates is constant for the gradient. How p shares p_rest is not learned, so a student
    whose candidates have little of its probability may drift away from the teacher there.

    Args:
        student: As in `forward_kl`.
        target: Logits, a `Projection` or `Candidates`.
        mask: As in `forward_kl`.
        temperature: The logits of both are divided by it; None for 1.
        reduction: As in `forward_kl`.
        tokenizer: As in `forward_kl`.
        chunk_positions: As in `forward_kl`.

    Returns:
        The loss, `[]` or `[positions]`.

    Raises:
        ConfigurationError: As `forward_kl`; or the target is sparse.
    """
    _refuse_sparse("reverse_kl", target)
    options = _options(mask, temperature, reduction, tokenizer, chunk_positions)
    heat = options.temperature_of(target)
    return _dense(student, target, divergences.dense_reverse_kl, heat, options)


def jsd(
    student: Logits,
    target: Logits | Candidates,
    *,
    beta: float = 0.5,
    mask: torch.Tensor | None = None,
    temperature: float | None = None,
    reduction: Reduction = "mean",
    tokenizer: str | None = None,
    chunk_positions: int | None = None,
) -> torch.Tensor:
    """Return the generalized Jensen-Shannon divergence, in nats.

    `beta KL(t || m) + (1 - beta) KL(p || m)`, where `m = beta t + (1 - beta) p` is the mixture of
    teacher t and student p (GKD, arXiv 2306.13649). It is at most log 2 for beta = 0.5. At beta = 0
    it is 0 by this formula; as in TRL, 0 gives `forward_kl` and 1 gives `reverse_kl`, to which its
    gradient, divided by beta or 1 - beta, tends. All of its other rules are those of `forward_kl`.

    Args:
        student: As in `forward_kl`.
        target: Logits, a `Projection` or `Candidates`.
        beta: From 0 to 1: the teacher's share in the mixture.
        mask: As in `forward_kl`.
        temperature: The logits of both are divided by it; None for 1.
        reduction: As in `forward_kl`.
        tokenizer: As in `forward_kl`.
        chunk_positions: As in `forward_kl`.

    Returns:
        The loss, `[]` or `[positions]`.

    Raises:
        ConfigurationError: As `forward_kl`; or the target is sparse.
    """
    _refuse_sparse("jsd", target)
    share = check_real_number("beta", beta)
    if not 0 <= share <= 1:
        raise ConfigurationError(f"beta is {beta!r}; it must be from 0 to 1")
    options = _options(mask, temperature, reduction, tokenizer, chunk_positions)
    heat = options.temperature_of(target)
    measure: _Dense = partial(divergences.dense_jsd, beta=share)
    if share == 0:
        measure = divergences.dense_forward_kl
    elif share == 1:
        measure = divergences.dense_reverse_kl
    return _dense(student, target, measure, heat, options)


def _dense(
    student: Logits,
    target: Logits | Candidates,
    measure: _Dense,
    temperature: float,
    options: Options,
) -> torch.Tensor:
    """Evaluate a divergence of whole distributions: over all ids, or over candidates and the rest."""
    whole = partial(measure, temperature=temperature)
    if isinstance(target, Candidates) and target.drawn is not None:
        if measure is not divergences.dense_reverse_kl:
            raise ConfigurationError(
                f"{target} were drawn from the student, which estimates KL(student || teacher) "
                "alone; use reverse_kl, or choose candidates in another way"
            )
        return evaluate(student, target, divergences.drawn_reverse_kl, options)
    if isinstance(target, Candidates):
        whole = partial(divergences.on_candidates, measure=whole)
    return evaluate(student, target, whole, options)


def _options(
    mask: torch.Tensor | None,
    temperature: float | None,
    reduction: Reduction,
    tokenizer: str | None,
    chunk_positions: int | None,
) -> Options:
    return Options(
        mask=mask,
        temperature=temperature,
        reduction=reduction,
        tokenizer=tokenizer,
        chunk_positions=chunk_positions,
    )


def _refuse_sparse(name: str, target: AnyTarget) -> None:
    if isinstance(target, SparseTarget):
        raise ConfigurationError(
            f"{name} needs the teacher's probabilities where the STUDENT has mass, but the teacher "
            f"chose the ids of {target}. Use forward_kl, or have the teacher send its hidden states "
            f"(a Projection with its head) or its log-probabilities of ids that the student chose "
            f"(Candidates)"
        )
