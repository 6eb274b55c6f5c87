"""A lesson that answers queries, for `tutelage teach` in processes of their own. Its settings are in the environment."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch

from tutelage import Lesson

POISON = int(os.environ.get("ANSWER_POISON", "-1"))
#: A file that says that the model was called.
CALLED = os.environ.get("ANSWER_CALLED", "")
SLEEP_S = float(os.environ.get("ANSWER_SLEEP_S", "0"))
#: What another teacher adds to each answer.
MORE = int(os.environ.get("ANSWER_MORE", "0"))


def answers_to(x: torch.Tensor) -> torch.Tensor:
    """The answer to each row: exact, whatever rows are computed together."""
    return x * 2 + 1


def model(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Takes so long for each call. One row kills it, whatever the others are."""
    if (batch["x"] == POISON).any():
        os.kill(os.getpid(), signal.SIGKILL)
    if CALLED:
        Path(CALLED).touch()
    time.sleep(SLEEP_S)
    return {"y": answers_to(batch["x"]) + MORE}


lesson = Lesson(model=model, name="teacher", revision=os.environ.get("ANSWER_REVISION", "1"))
