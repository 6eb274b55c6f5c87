"""What a student is worth: on text that was held out, and on texts that it writes itself."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from tutelage.examples.on_policy.generation import continued
from tutelage.examples.on_policy.sizes import Size
from tutelage.losses import Head, Projection, reverse_kl

# All students draw with the same randomness.
_SEED = 7
_ROWS = 16


@torch.no_grad()
def own_reverse_kl(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    windows: torch.Tensor,
    size: Size,
    *,
    device: str = "cpu",
) -> float:
    """Return KL(student || teacher) on texts that the student writes, in nats a token.

    At each position of a continuation it is the full sum over the vocabulary. Prompts are the
    starts of windows.

    Args:
        model: The student, on the device.
        teacher: The teacher, on the device.
        windows: int64 `[windows, context + 1]` that were held out.
        size: The sizes: how many texts, and how long.
        device: Where to compute.
    """
    generator = torch.Generator(device).manual_seed(_SEED)
    head = Head.from_model(teacher)
    prompts = windows[: size.own_rows, : size.prompt].to(device)
    total, first = 0.0, size.prompt - 1
    for part in torch.split(prompts, _ROWS):
        ids = continued(model, part, size.continued, generator).ids
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=size.continued + 1).logits[
            :, :-1
        ]
        states = teacher.base_model(input_ids=ids, use_cache=False).last_hidden_state
        known = Projection(states[:, first:-1], head)
        total += float(reverse_kl(logits, known, reduction="sum"))
    return total / (len(prompts) * size.continued)
