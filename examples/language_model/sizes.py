"""How large the experiment is."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """The sizes of text, student and training.

    Args:
        context: Tokens that a model sees at once.
        train_windows: Windows of `context` tokens that the teachers label, at most.
        held_out_windows: Windows that students are measured on, at most.
        batch_rows: Windows in one step of a student.
        steps: Steps of a student.
        hidden: The student's width, a multiple of 64.
        layers: The student's layers.
        learning_rate: The student's largest learning rate.
        tuning_rate: The learning rate with which a teacher is trained further.
    """

    context: int
    train_windows: int
    held_out_windows: int
    batch_rows: int
    steps: int
    hidden: int
    layers: int
    learning_rate: float
    tuning_rate: float = 5e-5

    def passes(self, windows: int) -> int:
        """How many passes over the text a student makes: the last one may be shorter.

        Args:
            windows: The windows of the text.
        """
        return math.ceil(self.steps / (windows // self.batch_rows))


SIZES = {
    # On two cores a step takes about half a second, most of it for the 49,152 logits of 512 tokens.
    "cpu": Size(
        context=64,
        train_windows=512,
        held_out_windows=96,
        batch_rows=8,
        steps=256,
        hidden=192,
        layers=3,
        learning_rate=2e-3,
    ),
    "gpu": Size(
        context=256,
        train_windows=384,
        held_out_windows=40,
        batch_rows=16,
        steps=1000,
        hidden=384,
        layers=6,
        learning_rate=1e-3,
    ),
}
