"""Continuations that a causal language model draws at temperature 1, and ids to ask a teacher about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from tutelage.losses import draw_candidates


@dataclass(frozen=True, kw_only=True, slots=True)
class Continued:
    """Texts that a model continued.

    Args:
        ids: int64 `[rows, T]`: the prompts, and the drawn tokens behind them.
        candidates: int32 `[rows, T, K]`: at each position from the prompt's last on, but the
            text's last, K next tokens: drawn, or the most probable ones; 0 elsewhere.
        drawn: float32 `[rows, T, K]`: the log-probabilities under which they were drawn; 0
            elsewhere.
    """

    ids: torch.Tensor
    candidates: torch.Tensor
    drawn: torch.Tensor


@torch.no_grad()
def continued(
    model: PreTrainedModel,
    prompts: torch.Tensor,
    tokens: int,
    generator: torch.Generator,
    candidates: int = 1,
    *,
    draws: bool = True,
) -> Continued:
    """Draw tokens behind prompts. A token that ends texts is drawn like any other.

    Args:
        model: The model.
        prompts: int64 `[rows, P]`, on the model's device.
        tokens: How many tokens to draw.
        generator: Where the randomness comes from; of the model's device.
        candidates: K.
        draws: Whether candidates are drawn, or the most probable ones.

    Returns:
        On the model's device.
    """
    rows, width = prompts.shape
    ids = torch.cat([prompts, prompts.new_zeros(rows, tokens)], 1)
    found = torch.zeros(rows, width + tokens, candidates, dtype=torch.int32, device=ids.device)
    drawn = torch.zeros(found.shape, device=ids.device)
    # Of its own, so that the text is the same whatever is asked about.
    asking = torch.Generator(ids.device).manual_seed(generator.initial_seed() + 1)
    cache: dict[str, Any] = {}
    given = prompts
    for place in range(width, width + tokens):
        decoded = model(input_ids=given, use_cache=True, logits_to_keep=1, **cache)
        # Its name differs between versions of `transformers`, and is that of the argument.
        name = next(key for key in decoded if key in ("cache", "past_key_values"))
        cache = {name: decoded[name]}
        logits = decoded.logits[:, -1].float()
        if draws:
            chosen = draw_candidates(logits, candidates, generator=asking)
            found[:, place - 1], drawn[:, place - 1] = chosen
        else:
            found[:, place - 1] = logits.topk(candidates).indices.int()
        given = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        ids[:, place] = given[:, 0]
    return Continued(ids=ids, candidates=found, drawn=drawn)
