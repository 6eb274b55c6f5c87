"""How large the experiment is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tutelage import ConfigurationError


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """The sizes of text, student and training.

    Args:
        context: Tokens that a model sees at once.
        train_windows: Windows of `context` tokens that the teachers label, at most.
        held_out_windows: Windows that students are measured on, at most.
        batch_rows: Windows in one step of a student.
        steps: Steps of a student.
        layers: The student's layers.
        learning_rate: The student's largest learning rate.
        hidden: The width, a multiple of 64, of a student with random weights. If None, the student
            begins with some of the teacher's own layers, and has its width.
        tuning_rate: The learning rate with which a teacher is trained further.
    """

    context: int
    train_windows: int
    held_out_windows: int
    batch_rows: int
    steps: int
    layers: int
    learning_rate: float
    hidden: int | None = None
    tuning_rate: float = 5e-5

    def passes(self, windows: int) -> int:
        """How many passes over the text a student makes: the last one may be shorter.

        Args:
            windows: The windows of the text.

        Raises:
            ConfigurationError: They are fewer than a step needs.
        """
        if windows < self.batch_rows:
            raise ConfigurationError(
                f"the text has {windows} windows, and a step takes {self.batch_rows}: give more "
                "--windows, or fewer --batch-rows"
            )
        return math.ceil(self.steps / (windows // self.batch_rows))


SIZES = {
    # One pass over the text. On one core a step takes a second, most of it for the 49,152 logits of
    # 512 tokens.
    "cpu": Size(
        context=64,
        train_windows=512,
        held_out_windows=96,
        batch_rows=8,
        steps=64,
        layers=3,
        learning_rate=5e-4,
    ),
    # A student with random weights learns slower, and seeds differ by 0.25 nat.
    "cpu-scratch": Size(
        context=64,
        train_windows=512,
        held_out_windows=96,
        batch_rows=8,
        steps=256,
        layers=3,
        learning_rate=2e-3,
        hidden=192,
    ),
    "gpu": Size(
        context=256,
        train_windows=384,
        held_out_windows=40,
        batch_rows=16,
        steps=1000,
        layers=6,
        learning_rate=1e-3,
        hidden=384,
    ),
}
