"""The head of a model of Hugging Face's `transformers`, where its way to logits is known.

It reads the model's attributes and does not import `transformers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tutelage.consumers.losses.head import Head
from tutelage.schemas.errors import ConfigurationError

# Which settings multiply the logits, for which models (`model_type`), and whether they divide
# instead. From the `forward` of the models' classes in transformers 4.56.
_SCALES = {
    "logit_scale": ({"cohere", "cohere2"}, False),
    "logits_scaling": (
        {"granite", "granitemoe", "granitemoeshared", "granitemoehybrid"},
        True,
    ),
    "lm_head_multiplier": ({"falcon_h1"}, False),
}
# The comparison of logits takes this many tokens, unless it is given some.
_CHECKED_IDS = 8
# The largest difference of logits, relative to the largest logit, that dtypes explain.
_TOLERANCES = {torch.float16: 5e-3, torch.bfloat16: 4e-2}


def head_arguments(model: Any) -> dict[str, Any]:
    """Return the arguments of `Head` for a causal language model.

    Raises:
        ConfigurationError: The model's logits are computed in a way that is not known here.
    """
    name = type(model).__name__
    if not hasattr(model, "get_output_embeddings") or not hasattr(model, "config"):
        raise ConfigurationError(f"{name} is no model of transformers: it has no output embeddings")
    config = model.config
    if getattr(config, "is_encoder_decoder", False):
        raise _unknown(name, "it is an encoder and a decoder")
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    layer = model.get_output_embeddings()
    weight = getattr(layer, "weight", None)
    # Quantized and adapted layers (LoRA) are subclasses or look alike, but compute something else.
    is_linear = (
        isinstance(layer, torch.nn.Linear) and type(layer).forward is torch.nn.Linear.forward
    )
    if not is_linear or weight is None or not weight.is_floating_point():
        raise _unknown(name, f"its output embeddings are {type(layer).__name__}, no plain Linear")
    softcap = getattr(config, "final_logit_softcapping", None)
    return {
        "weight": weight,
        "bias": layer.bias,
        "scale": _scale(name, config),
        "softcap": float(softcap) if softcap else None,
        "name": name,
    }


def check_head(head: Head, model: Any, ids: torch.Tensor | None) -> None:
    """Compare a head's logits with those that its model computes.

    Args:
        head: The head.
        model: The model.
        ids: Token ids `[rows, T]`; None for the first few.

    Raises:
        ConfigurationError: They differ by more than the rounding of their dtype.
    """
    if ids is None:
        ids = torch.arange(min(_CHECKED_IDS, head.vocabulary), device=head.weight.device)[None]
    with torch.no_grad(), _without_dropout(model):
        hidden = model.base_model(input_ids=ids).last_hidden_state
        ours = head.logits(hidden)
        theirs = model(input_ids=ids).logits.float()[..., : head.vocabulary]
    most = float(theirs.abs().max())
    difference = float((ours - theirs).abs().max())
    if difference > _TOLERANCES.get(head.weight.dtype, 1e-4) * most:
        raise ConfigurationError(
            f"the logits of {head} differ from those of {type(model).__name__} by up to "
            f"{difference:.3g} (the largest is {most:.3g}): the model does more after its last "
            f"hidden state than is known here. Write Head(...) yourself"
        )


@contextmanager
def _without_dropout(model: Any) -> Iterator[None]:
    """Put a model in its evaluation mode for a block, and each module back after it."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _scale(name: str, config: Any) -> float:
    scale = 1.0
    for setting, (models, divides) in _SCALES.items():
        value = getattr(config, setting, None)
        if value is None:
            continue
        if getattr(config, "model_type", "") not in models:
            if value == 1:
                continue
            raise _unknown(
                name, f"{setting} is {value!r}, and what it does is known for others only"
            )
        scale = scale / float(value) if divides else scale * float(value)
    return scale


def _unknown(name: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"how {name} computes its logits is not known: {why}. Write Head(weight=..., ...) yourself"
    )
