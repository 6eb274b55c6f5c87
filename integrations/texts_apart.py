"""Whether a model keeps the texts of a row apart: a text in its row, against the same text alone."""

from __future__ import annotations

import torch
from torch import nn

#: So many tokens of a text are compared.
COMPARED_TOKENS = 8
# Relative errors. Half precision and quantized weights make less than a tenth, and float32 far less
# than this: what is beyond is another text's doing.
_LARGEST_EXACT_ERROR, _LARGEST_ERROR = 1e-4, 0.1


def are_equal(model: nn.Module, in_row: torch.Tensor, alone: torch.Tensor, *, exact: bool) -> bool:
    """Return whether a text's states or logits in its row are those that it has alone.

    Args:
        model: The model that computed them.
        in_row: Those in the row, `[tokens, width]`.
        alone: Those of the text alone, in the same shape.
        exact: Whether the model ran in the precision of its weights, as far as the caller knows.
    """
    exact = exact and _is_exact(model, in_row.device)
    in_row, alone = in_row.float(), alone.float()
    errors = (in_row - alone).norm(dim=-1) / alone.norm(dim=-1)
    return bool((errors < (_LARGEST_EXACT_ERROR if exact else _LARGEST_ERROR)).all())


def _is_exact(model: nn.Module, device: torch.device) -> bool:
    """Whether a model computes in float32 or wider."""
    return (
        not torch.is_autocast_enabled(device.type)
        and torch.get_float32_matmul_precision() == "highest"
        and all(each.dtype in (torch.float32, torch.float64) for each in model.parameters())
    )
