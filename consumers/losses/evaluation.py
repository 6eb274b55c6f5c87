"""What all losses share: check and pair the positions, measure them, reduce.

A student's logits and a target enter, with a measure of one position; the loss leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from tutelage.consumers.losses.candidates import Candidates
from tutelage.consumers.losses.chunked import Measure, Target, chunked_loss
from tutelage.consumers.losses.entries import Entries
from tutelage.consumers.losses.head import widened
from tutelage.consumers.losses.projection import Projection
from tutelage.consumers.losses.selection import select_dense, select_sparse
from tutelage.consumers.sparse_target import SparseTarget
from tutelage.schemas.arguments import check_choice, check_real_number, check_whole_number
from tutelage.schemas.errors import ConfigurationError

Logits = torch.Tensor | Projection
AnyTarget = Logits | SparseTarget | Candidates
Reduction = Literal["mean", "sum", "none"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Options:
    """The arguments that all losses have: see `forward_kl`."""

    mask: torch.Tensor | None
    temperature: float | None
    reduction: Reduction
    tokenizer: str | None
    chunk_positions: int | None

    def __post_init__(self) -> None:
        check_choice("reduction", self.reduction, ("mean", "sum", "none"))
        if self.chunk_positions is not None:
            check_whole_number("chunk_positions", self.chunk_positions)
        temperature = self.temperature
        if temperature is not None and check_real_number("temperature", temperature) <= 0:
            raise ConfigurationError(f"temperature is {temperature!r}; it must be above 0")

    def temperature_of(self, target: AnyTarget) -> float:
        """Return the temperature at which student and target are compared.

        Raises:
            ConfigurationError: A sparse target or candidates have another one.
        """
        asked = self.temperature
        if isinstance(target, Candidates):
            if asked not in (None, 1):
                raise ConfigurationError(
                    f"temperature is {asked:g}, but log-probabilities of candidates are made at 1, "
                    "and those of all others are not known at another; leave temperature out"
                )
            return 1.0
        if not isinstance(target, SparseTarget):
            return 1.0 if asked is None else float(asked)
        own = target.temperature
        if asked is not None and float(asked) != own:
            reason = (
                "counts are draws at one temperature and cannot be re-tempered"
                if target.is_sampled
                else "the probabilities of all others are not known at another temperature"
            )
            raise ConfigurationError(
                f"temperature is {asked:g}, but the target was made at {own:g}: {reason}. Leave "
                f"temperature out, or have the teacher encode at {asked:g}"
            )
        return own


def evaluate(
    student: Logits, target: AnyTarget, measure: Measure, options: Options
) -> torch.Tensor:
    """Return the loss: `measure` at all positions that count, reduced.

    Args:
        student: As in `forward_kl`.
        target: Likewise.
        measure: Float32 (or float64) logits `[n, V]` and the same positions of the target, as
            logits, entries or candidates -> `[n]`.
        options: Likewise.

    Raises:
        ConfigurationError: They do not fit together.
    """
    if _in_chunks(student, target, options):
        return _evaluate_uncompiled(student, target, measure, options)
    return _evaluate(student, target, measure, options)


def _evaluate(
    student: Logits, target: AnyTarget, measure: Measure, options: Options
) -> torch.Tensor:
    _check(student, target, options)
    places = tuple(student.shape[:-1])
    found: Target
    if isinstance(target, SparseTarget):
        chosen, wanted = select_sparse(places, target, options.mask)
        found = Entries.of(target, wanted)
    else:
        chosen, wanted = select_dense(places, tuple(target.shape[:-1]), options.mask)
        if isinstance(target, Candidates):
            found = target.take(wanted)
            found.check(student.shape[-1])
        else:
            found = _take(target, wanted)
    logits = _take(student, chosen)
    each = options.reduction == "none"
    if _in_chunks(student, target, options):
        losses = chunked_loss(
            logits, found, measure, each=each, chunk_positions=options.chunk_positions
        )
    else:
        assert isinstance(logits, torch.Tensor), "projections are computed in chunks"
        piece = widened(found.detach()) if isinstance(found, torch.Tensor) else found
        losses = measure(widened(logits), piece)
        losses = losses if each else losses.sum()
    count = logits.shape[0]
    return losses / max(1, count) if options.reduction == "mean" else losses


def _in_chunks(student: Logits, target: AnyTarget, options: Options) -> bool:
    projected = isinstance(student, Projection) or isinstance(target, Projection)
    return projected or options.chunk_positions is not None


# Chunks and their gradients are no graph that torch.compile could trace: it breaks its own here.
_evaluate_uncompiled: Callable[..., torch.Tensor] = torch.compiler.disable(_evaluate)  # type: ignore[no-untyped-call]


def _take(values: Logits, index: torch.Tensor | None) -> Logits:
    """Return some positions, or all: `[..., C]` -> `[n, C]`."""
    if isinstance(values, Projection):
        hidden = _take(values.hidden, index)
        assert isinstance(hidden, torch.Tensor)
        return Projection(hidden, values.head)
    flat: torch.Tensor = values.reshape(-1, values.shape[-1])
    return flat if index is None else flat.index_select(0, index.to(flat.device))


def _check(student: Logits, target: AnyTarget, options: Options) -> None:
    """Raise where types, vocabularies, devices or tokenizers do not fit together."""
    for name, value in (("the student's logits", student), ("the target", target)):
        if isinstance(value, torch.Tensor) and (value.dim() < 2 or not value.is_floating_point()):
            raise ConfigurationError(
                f"{name} are {value.dtype} {list(value.shape)}; logits are [..., V], of a floating "
                f"dtype"
            )
    if not isinstance(student, (torch.Tensor, Projection)):
        raise ConfigurationError(
            f"the student's logits are {type(student).__name__}; give a tensor or a Projection"
        )
    if not isinstance(target, (torch.Tensor, Projection, SparseTarget, Candidates)):
        raise ConfigurationError(
            f"the target is {type(target).__name__}; give a tensor, a Projection, a SparseTarget or "
            "Candidates"
        )
    ours = theirs = student.shape[-1]
    if isinstance(target, SparseTarget):
        theirs = target.vocabulary
    elif not isinstance(target, Candidates):
        theirs = target.shape[-1]
    if ours != theirs:
        hint = (
            f"if the student's last {ours - theirs} rows are padding, give it logits[..., :{theirs}], "
            f"a Head of vocabulary {theirs}, or KnowledgeTrainer(vocabulary={theirs})"
            if ours > theirs
            else "the target knows ids that the student does not have: the tokenizers differ, or the "
            "teacher's rows are padded, which CausalLMTeacher(vocabulary=len(tokenizer)) cuts off"
        )
        raise ConfigurationError(
            f"the student's vocabulary has {ours} ids, the target's {theirs}: {hint}"
        )
    if student.device != target.device:
        raise ConfigurationError(
            f"the student is on {student.device}, the target on {target.device}; move the target "
            f"with .to({str(student.device)!r})"
        )
    check_tokenizer(target, options.tokenizer)


def check_tokenizer(target: AnyTarget, tokenizer: str | None) -> None:
    """Check that a target was made with a tokenizer.

    Args:
        target: The target.
        tokenizer: The tokenizer's fingerprint; None for no check.

    Raises:
        ConfigurationError: It was made with another, or does not say with which.
    """
    if tokenizer is None:
        return
    named = target.tokenizer if isinstance(target, SparseTarget) else ""
    if named not in ("", tokenizer):
        raise ConfigurationError(
            f"the target was made with the tokenizer {named!r}, the student has {tokenizer!r}: the "
            "same id may mean another token. If they differ only in tokens that were added behind "
            "the others, compare without these: tokenizer_fingerprint(tokenizer, vocabulary), or "
            "KnowledgeTrainer(vocabulary=...)"
        )
    if not isinstance(target, SparseTarget) or not named or not target.tokenizer_of_all:
        who = "a teacher of the target" if named else "the target"
        raise ConfigurationError(
            f"{who} names no tokenizer, so that it cannot be compared with yours; leave tokenizer "
            "out, or have the teacher name its own: Sampled(tokenizer=...)"
        )
