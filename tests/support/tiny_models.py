"""Causal language models with random weights, small enough to run in milliseconds."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    Cohere2Config,
    Cohere2ForCausalLM,
    FalconH1Config,
    FalconH1ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

VOCABULARY = 50
_ROPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    # Large weights, so that a soft cap and a scale change the logits.
    "initializer_range": 0.5,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

_GPT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 64,
    "initializer_range": 0.5,
}


def llama(**changes: Any) -> PreTrainedModel:
    """Llama: a head without a bias."""
    return _made(LlamaForCausalLM, LlamaConfig(**{**_ROPE, **changes}))


def gpt2() -> PreTrainedModel:
    """GPT-2: learned positions, a tied head."""
    config = GPT2Config(**_GPT, bos_token_id=1, eos_token_id=2)
    return _made(GPT2LMHeadModel, config)


def gptj() -> PreTrainedModel:
    """GPT-J: a head with a bias."""
    model = _made(GPTJForCausalLM, GPTJConfig(**_GPT, rotary_dim=4, bos_token_id=1, eos_token_id=2))
    torch.nn.init.normal_(model.get_output_embeddings().bias)
    return model


def gemma2() -> PreTrainedModel:
    """Gemma 2: a soft cap on the logits, and layers with a sliding window."""
    return _made(
        Gemma2ForCausalLM,
        Gemma2Config(
            **_ROPE, final_logit_softcapping=3.0, sliding_window=4, query_pre_attn_scalar=8
        ),
    )


def granite() -> PreTrainedModel:
    """Granite: logits are divided by a number."""
    return _made(GraniteForCausalLM, GraniteConfig(**_ROPE, logits_scaling=4.0))


def cohere2() -> PreTrainedModel:
    """Command R: logits are multiplied by a number."""
    return _made(Cohere2ForCausalLM, Cohere2Config(**_ROPE, logit_scale=0.25, sliding_window=4))


def mixtral() -> PreTrainedModel:
    """Mixtral: a mixture of experts, whose outputs are more than logits."""
    return _made(
        MixtralForCausalLM, MixtralConfig(**_ROPE, num_local_experts=2, output_router_logits=True)
    )


def falcon_h1() -> PreTrainedModel:
    """Falcon-H1: has state-space layers; the logits' multiplier is an attribute of the decoder."""
    sizes: dict[str, Any] = {
        "mamba_d_ssm": 16,
        "mamba_n_heads": 2,
        "mamba_d_head": 8,
        "mamba_d_state": 4,
    }
    return _made(FalconH1ForCausalLM, FalconH1Config(**_ROPE, **sizes, lm_head_multiplier=0.3))


def opt() -> PreTrainedModel:
    """OPT: its forward calls a part of its base model instead of the base model."""
    config = OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        ffn_dim=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        word_embed_proj_dim=16,
    )
    return _made(OPTForCausalLM, config)


def tokenizer(*words: str) -> PreTrainedTokenizerFast:
    """A tokenizer with `VOCABULARY` words, of which the given ones come first."""
    rest = [f"word{number}" for number in range(len(words), VOCABULARY)]
    ids = {word: number for number, word in enumerate([*words, *rest])}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(ids, unk_token=words[0])))


def _made(kind: Any, config: Any) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config).eval()
    assert isinstance(model, PreTrainedModel)
    return model
