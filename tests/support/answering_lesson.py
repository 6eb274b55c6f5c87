"""A lesson that answers queries, for `tutelage teach` in processes of their own. Its settings are in the environment."""

from __future__ import annotations

import os
import time
from typing import Any

import torch

from tutelage import Lesson

SLEEP_S = float(os.environ.get("ANSWER_SLEEP_S", "0"))


def answers_to(x: torch.Tensor) -> torch.Tensor:
    """The answer to each row: exact, whatever rows are computed together."""
    return x * 2 + 1


def model(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Takes so long for each call."""
    time.sleep(SLEEP_S)
    return {"y": answers_to(batch["x"])}


lesson = Lesson(model=model, name="teacher", revision=os.environ.get("ANSWER_REVISION", "1"))
