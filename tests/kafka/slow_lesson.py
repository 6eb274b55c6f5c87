"""A teacher that takes its time, so that it can be killed in the middle: numbers 0 to 1999, eight a batch."""

from __future__ import annotations

import os
import time

import torch

from tutelage import Lesson

ROWS = 2000
BATCH_SIZE = 8


def model(batch: torch.Tensor) -> dict[str, torch.Tensor]:
    """x and 2x-1, after a moment."""
    time.sleep(float(os.environ.get("LESSON_SECONDS", "0.004")))
    return {"x": batch, "2x-1": 2 * batch - 1}


lesson = Lesson(
    model=model, inputs=torch.arange(ROWS), batch_size=BATCH_SIZE, name="slow", rows_per_record=20
)
