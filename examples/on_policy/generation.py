"""Continuations that a causal language model draws at temperature 1, and what it found probable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Continued:
    """Texts that a model continued.

    Args:
        ids: int64 `[rows, T]`: the prompts, and the drawn tokens behind them.
        candidates: int32 `[rows, T, K]`: at each position from the prompt's last on, but the
            text's last, the K most probable next tokens; 0 elsewhere.
    """

    ids: torch.Tensor
    candidates: torch.Tensor


@torch.no_grad()
def continued(
    model: PreTrainedModel,
    prompts: torch.Tensor,
    tokens: int,
    generator: torch.Generator,
    candidates: int = 1,
) -> Continued:
    """Draw tokens behind prompts. A token that ends texts is drawn like any other.

    Args:
        model: The model.
        prompts: int64 `[rows, P]`, on the model's device.
        tokens: How many tokens to draw.
        generator: Where the randomness comes from; of the model's device.
        candidates: K.

    Returns:
        On the model's device.
    """
    rows, width = prompts.shape
    ids = torch.cat([prompts, prompts.new_zeros(rows, tokens)], 1)
    found = torch.zeros(rows, width + tokens, candidates, dtype=torch.int32, device=ids.device)
    cache: dict[str, Any] = {}
    given = prompts
    for place in range(width, width + tokens):
        decoded = model(input_ids=given, use_cache=True, logits_to_keep=1, **cache)
        # Its name differs between versions of `transformers`, and is that of the argument.
        name = next(key for key in decoded if key in ("cache", "past_key_values"))
        cache = {name: decoded[name]}
        logits = decoded.logits[:, -1].float()
        found[:, place - 1] = logits.topk(candidates).indices.int()
        given = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        ids[:, place] = given[:, 0]
    return Continued(ids=ids, candidates=found)
