"""The teacher of `--size quick`: random weights and letters, without a network."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

_VOCABULARY = 50
_END = 2
# Ids below it have other meanings.
_FIRST_LETTER = 3
# Enough of each topic for a few windows.
_LETTERS_OF_A_TOPIC = 400


class Letters:
    """A tokenizer whose tokens are 47 classes of letters, and one that ends texts."""

    eos_token_id = _END
    special_tokens_map: ClassVar[dict[str, str]] = {"eos_token": "</s>"}

    def __call__(self, text: str) -> dict[str, list[int]]:
        classes = _VOCABULARY - _FIRST_LETTER
        letters = text[:_LETTERS_OF_A_TOPIC]
        return {"input_ids": [_FIRST_LETTER + ord(letter) % classes for letter in letters]}

    def __len__(self) -> int:
        return _VOCABULARY

    def get_vocab(self) -> dict[str, int]:
        return {str(number): number for number in range(len(self))}


def load() -> tuple[PreTrainedModel, Any]:
    """Return a model whose weights are always the same, and its tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=_VOCABULARY,
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=4,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=8,
                max_position_embeddings=64,
                # Large weights, so that its distributions are not flat.
                initializer_range=0.5,
                tie_word_embeddings=True,
                bos_token_id=1,
                eos_token_id=_END,
            )
        )
    return model.train(False), Letters()
