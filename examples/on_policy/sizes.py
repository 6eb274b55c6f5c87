"""How large the experiment is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from tutelage.examples.language_model import sizes


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """The sizes of text, students and queries.

    Args:
        text: Of the text and the student; `steps` and `learning_rate` are those of the comparison,
            and `train_windows` is not read.
        prompt: The tokens of a window's start that a continuation begins with.
        warm_up_steps: Steps on the corpus that each student has had before the comparison.
        warm_up_rate: The largest learning rate of these steps.
        candidates: How many tokens a student asks about at a position.
        draws: The draws of a sampled answer.
        rows_per_query: Rows of one query record.
        own_rows: How many texts of its own a student is measured on.
    """

    text: sizes.Size
    prompt: int
    warm_up_steps: int
    warm_up_rate: float
    candidates: int
    draws: int
    rows_per_query: int
    own_rows: int

    @property
    def continued(self) -> int:
        """Tokens behind the prompt: the positions of a row that have a loss."""
        return self.text.context - self.prompt

    @property
    def warm_up(self) -> sizes.Size:
        """The size of the steps before the comparison."""
        return replace(
            self.text,
            steps=self.warm_up_steps,
            learning_rate=self.warm_up_rate,
            train_windows=self.warm_up_steps * self.text.batch_rows,
        )

    @property
    def whole(self) -> sizes.Size:
        """The size with the windows of both."""
        windows = (self.warm_up_steps + self.text.steps) * self.text.batch_rows
        return replace(self.text, train_windows=windows)

    def settings(self) -> dict[str, Any]:
        """All numbers, for comparing results."""
        return asdict(self)


SIZES = {
    # A teacher of random weights: shows that everything works, in seconds and without a network.
    "quick": Size(
        text=sizes.Size(
            context=12,
            train_windows=0,
            held_out_windows=8,
            batch_rows=4,
            steps=8,
            layers=2,
            learning_rate=5e-3,
        ),
        prompt=4,
        warm_up_steps=4,
        warm_up_rate=1e-2,
        candidates=6,
        draws=20,
        rows_per_query=2,
        own_rows=8,
    ),
    # Some three minutes of one core for each seed.
    "small": Size(
        text=sizes.Size(
            context=32,
            train_windows=0,
            held_out_windows=32,
            batch_rows=8,
            steps=16,
            layers=3,
            learning_rate=2e-4,
        ),
        prompt=12,
        warm_up_steps=16,
        warm_up_rate=5e-4,
        candidates=16,
        draws=50,
        rows_per_query=4,
        own_rows=32,
    ),
    "cpu": Size(
        text=sizes.Size(
            context=40,
            train_windows=0,
            held_out_windows=48,
            batch_rows=8,
            steps=32,
            layers=3,
            learning_rate=2e-4,
        ),
        prompt=16,
        warm_up_steps=40,
        warm_up_rate=5e-4,
        candidates=16,
        draws=50,
        rows_per_query=4,
        own_rows=48,
    ),
    "gpu": Size(
        text=sizes.Size(
            context=128,
            train_windows=0,
            held_out_windows=64,
            batch_rows=8,
            steps=50,
            layers=6,
            learning_rate=2e-4,
        ),
        prompt=32,
        warm_up_steps=32,
        warm_up_rate=5e-4,
        candidates=64,
        draws=50,
        rows_per_query=4,
        own_rows=64,
    ),
}
