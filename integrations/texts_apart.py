"""Whether a model keeps the texts of a row apart: a text in its row, against the same text alone."""

from __future__ import annotations

import torch
from torch import nn

#: So many tokens of a text are compared.
COMPARED_TOKENS = 8
# Relative errors of half precision and quantized weights stay below a tenth, those of float32 below
# the other limit. A larger error comes from another text.
_LARGEST_ERROR, _LARGEST_EXACT_ERROR = 0.1, 1e-4


def are_equal(model: nn.Module, in_row: torch.Tensor, alone: torch.Tensor, *, exact: bool) -> bool:
    """Return whether a text's states or logits in its row are those that it has alone.

    Args:
        model: The model that computed them.
        in_row: Those in the row, `[tokens, width]`.
        alone: Those of the text alone, in the same shape.
        exact: Whether the model ran in the precision of its weights, as far as the caller knows.
    """
    exact = exact and _is_exact(model, in_row.device)
    limit = _LARGEST_EXACT_ERROR if exact else _LARGEST_ERROR
    in_row, alone = in_row.float(), alone.float()
    return bool(((in_row - alone).norm(dim=-1) <= limit * alone.norm(dim=-1)).all())


def _is_exact(model: nn.Module, device: torch.device) -> bool:
    """Whether a model computes in float32 or wider."""
    return (
        all(each.dtype in (torch.float32, torch.float64) for each in model.parameters())
        # Quantized layers may have no parameters, or parameters of a type of their own.
        and all(type(each.data) is torch.Tensor for each in model.parameters())
        and not any("quant" in type(each).__module__ for each in model.modules())
        and not torch.is_autocast_enabled(device.type)
        and not (device.type == "cuda" and _uses_tf32())
    )


def _uses_tf32() -> bool:
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:
        # Torch raises this once the precision was set by its newer functions.
        return True
