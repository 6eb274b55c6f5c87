"""What is compared: whose texts a student learns from, and by which loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tutelage.examples.on_policy.generation import continued
from tutelage.examples.on_policy.sizes import Size
from tutelage.losses import Candidates, forward_kl, reverse_kl

Batch = dict[str, Any]
#: The students as they begin the comparison; no variant that learns.
START = "before the comparison"
OFF_POLICY = "off-policy, sampled forward KL"


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One way to learn.

    Args:
        name: Its name in the results.
        topic: Its name in topics.
        own: Whether texts are continued by the student; else they are the corpus's.
        lesson: The lesson of `lesson.py` that answers.
        draws: Whether the student draws the ids that it asks about; else they are its most
            probable ones.
        loss: Logits `[rows, n, V]` of the n positions with a loss, a batch, and the first of the
            positions -> the loss.
    """

    name: str
    topic: str
    own: bool
    lesson: str
    draws: bool = True
    loss: Callable[[torch.Tensor, Batch, int], torch.Tensor]

    def flags(self, size: Size) -> tuple[str, ...]:
        """The flags of `tutelage teach` that say how answers travel."""
        if self.lesson == "candidates":
            return ("--wire", "log_probs=float16")
        return ("--wire", f"logits=sampled:{size.draws}")

    def rows(
        self, model: Any, windows: torch.Tensor, size: Size, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """The rows of a step: what is asked.

        Args:
            model: The student.
            windows: int64 `[rows, context + 1]` of the corpus.
            size: The sizes.
            generator: For what the student draws; of its device.

        Returns:
            `input_ids` int32 `[rows, context]`; `loss_mask` bool `[rows, context]`, true behind the
            prompts; and if they are asked about, `candidates` int32 `[rows, context, K]`, with
            `drawn`, float32, their log-probabilities, if they were drawn.
        """
        ids = windows[:, : size.text.context]
        found: dict[str, torch.Tensor] = {}
        if self.own:
            prompts = ids[:, : size.prompt].to(generator.device)
            wrote = continued(
                model, prompts, size.continued, generator, size.candidates, draws=self.draws
            )
            ids = wrote.ids.cpu()
            if self.lesson == "candidates":
                found["candidates"] = wrote.candidates.cpu()
            if self.lesson == "candidates" and self.draws:
                found["drawn"] = wrote.drawn.cpu()
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        mask[:, size.prompt :] = True
        return {**found, "input_ids": ids.int(), "loss_mask": mask}


def sampled(logits: torch.Tensor, batch: Batch, first: int) -> torch.Tensor:
    """KL(teacher || student) by the teacher's draws: see `tutelage.losses.forward_kl`."""
    return forward_kl(logits, batch["logits"])


def of_drawn(logits: torch.Tensor, batch: Batch, first: int) -> torch.Tensor:
    """KL(student || teacher) by ids that the student drew: see `tutelage.losses.reverse_kl`.

    `1/N sum_n w log(p / t)`, with `w = p / q` for the student's having changed since it drew under q:
    an unbiased estimate over the whole vocabulary (MiniLLM, arXiv 2306.08543, for the divergence).
    """
    last = first + logits.shape[1]
    asked, drawn = batch["candidates"][:, first:last], batch["drawn"][:, first:last]
    return reverse_kl(logits, Candidates(asked, batch["log_probs"], drawn=drawn))


def of_most_probable(logits: torch.Tensor, batch: Batch, first: int) -> torch.Tensor:
    """KL(student || teacher) over the student's K most probable ids and all others as one class.

    `sum_K p log(p / t) + p_rest log(p_rest / t_rest)`: exact on these classes, and at most the full
    KL (log sum inequality, Cover and Thomas 2006, theorem 2.7.1).
    """
    last = first + logits.shape[1]
    asked = batch["candidates"][:, first:last]
    return reverse_kl(logits, Candidates(asked, batch["log_probs"], batch["tail"]))


#: The variants, in the order of the tables. The first is the one that others are compared with.
ALL = (
    Variant(name=OFF_POLICY, topic="off-policy", own=False, lesson="sampled", loss=sampled),
    Variant(
        name="on-policy, sampled forward KL",
        topic="on-policy-sampled",
        own=True,
        lesson="sampled",
        loss=sampled,
    ),
    Variant(
        name="on-policy, reverse KL on drawn ids",
        topic="on-policy-drawn",
        own=True,
        lesson="candidates",
        loss=of_drawn,
    ),
    Variant(
        name="on-policy, reverse KL on top ids",
        topic="on-policy-top",
        own=True,
        lesson="candidates",
        draws=False,
        loss=of_most_probable,
    ),
)
