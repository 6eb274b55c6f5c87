"""Python's documentation, which Python's own library holds -> windows of tokens.

The topics are those of `help("topics")`. Some are held out: no teacher is trained further on them,
and students are measured on them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from tutelage.examples.language_model.sizes import Size
from tutelage.integrations.tokenizer_fingerprint import tokenizer_fingerprint

Batch = dict[str, torch.Tensor]
# The share of the topics that are held out, and the seed of the choice.
_HELD_OUT = 0.12
_SEED = 14
# Windows in one batch of a teacher.
_ROWS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """The windows, int64 `[windows, context + 1]`: each token but a window's first is a target.

    Args:
        train: What the teachers label and the students learn from.
        held_out: What the students are measured on.
        tokenizer: The tokenizer's fingerprint.
        vocabulary: How many tokens it has.
    """

    train: torch.Tensor = field(repr=False)
    held_out: torch.Tensor = field(repr=False)
    tokenizer: str
    vocabulary: int

    @property
    def fingerprint(self) -> str:
        """What stands for the windows that teachers label."""
        rows, width = self.train.shape
        return f"pydoc topics, {rows} windows of {width - 1} tokens, tokenizer {self.tokenizer}"


def read(tokenizer: Any, size: Size) -> Text:
    """Tokenize the documentation, and cut it into windows, in an order that is always the same."""
    from pydoc_data.topics import topics

    names = sorted(topics)
    random.Random(_SEED).shuffle(names)
    held = int(_HELD_OUT * len(names))
    parts = [
        _windows((topics[name] for name in part), tokenizer, size.context)
        for part in (names[held:], names[:held])
    ]
    order = torch.randperm(len(parts[0]), generator=torch.Generator().manual_seed(_SEED))
    return Text(
        train=parts[0][order][: size.train_windows],
        held_out=parts[1][: size.held_out_windows],
        tokenizer=tokenizer_fingerprint(tokenizer),
        vocabulary=len(tokenizer),
    )


def batches(windows: torch.Tensor, rows: int = _ROWS) -> list[Batch]:
    """Windows as a teacher's inputs: `input_ids` and `targets`, int64 `[rows, context]`."""
    parts = torch.split(windows, rows)
    return [{"input_ids": part[:, :-1], "targets": part[:, 1:].int()} for part in parts]


def _windows(texts: Iterable[str], tokenizer: Any, context: int) -> torch.Tensor:
    ids: list[int] = []
    for text in texts:
        ids += [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    # The last token of a window is the first of the next one.
    count = (len(ids) - 1) // context
    return torch.tensor(ids[: count * context + 1]).unfold(0, context + 1, context).clone()
