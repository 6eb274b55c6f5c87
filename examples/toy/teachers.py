"""The two teachers. They are not trained, so that everybody can see what they must predict."""

from __future__ import annotations

import torch
from torch import nn


class Teacher1(nn.Module):
    """Predicts 2x-1.

    Its keys are `x`, `2x-1` and `result`, a copy of its prediction; all int64 [rows, 1].
    """

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        prediction = 2 * x - 1
        return {"x": x, "2x-1": prediction, "result": prediction.clone()}


class Teacher2(nn.Module):
    """Predicts 2x+1.

    Its keys are `2x+1` and `result`, a copy of its prediction; all int64 [rows, 1].
    """

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        prediction = 2 * x + 1
        return {"2x+1": prediction, "result": prediction.clone()}
