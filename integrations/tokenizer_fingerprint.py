"""Fingerprints of tokenizers: equal if every id stands for the same token."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from tutelage.schemas.errors import ConfigurationError


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return what stands for a tokenizer's vocabulary: equal where all ids mean the same.

    Args:
        tokenizer: A tokenizer of `transformers`.

    Returns:
        16 hexadecimal digits: the first of the SHA-256 of all tokens in the order of their ids. Which
        of them pads or ends a text does not matter.

    Raises:
        ConfigurationError: It has no vocabulary.
    """
    if not hasattr(tokenizer, "get_vocab"):
        raise ConfigurationError(
            f"a {type(tokenizer).__name__} has no vocabulary; give a tokenizer of transformers"
        )
    tokens = sorted((number, token) for token, number in tokenizer.get_vocab().items())
    text = json.dumps(tokens, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint_of_processor(processor: Any) -> str | None:
    """Return the fingerprint of a `Trainer`'s `processing_class`; None if it has no tokenizer.

    Args:
        processor: A tokenizer, a processor that has one, as those of images and text, or anything
            else.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    return tokenizer_fingerprint(tokenizer) if hasattr(tokenizer, "get_vocab") else None
