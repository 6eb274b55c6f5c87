"""Fingerprints of tokenizers: equal if every id stands for the same token."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from tutelage.consumers.losses.evaluation import check_tokenizer
from tutelage.consumers.sparse_target import SparseTarget
from tutelage.schemas.errors import ConfigurationError


def tokenizer_fingerprint(tokenizer: Any, vocabulary: int | None = None) -> str:
    """Return what stands for a tokenizer's vocabulary: equal where all ids mean the same.

    Args:
        tokenizer: A tokenizer of `transformers`.
        vocabulary: Leave out ids from this one on, such as tokens that were added for one model.

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
    tokens = sorted(
        (number, token)
        for token, number in tokenizer.get_vocab().items()
        if vocabulary is None or number < vocabulary
    )
    text = json.dumps(tokens, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class TokenizerCheck:
    """Compares the tokenizers of targets with that of a `Trainer`.

    Args:
        tokenizer: The fingerprint that all teachers must have named. None for that of the
            processor, which is compared where a teacher named one.
        processor: The `processing_class`: a tokenizer, a processor that has one, as those of images
            and text, or anything else.
        vocabulary: How many ids the student's logits have, if it was given. Tokens behind them are
            left out where a teacher knows nothing of them.
    """

    def __init__(self, tokenizer: str | None, processor: Any, vocabulary: int | None) -> None:
        self._insisted = tokenizer
        own = getattr(processor, "tokenizer", processor)
        limits = (None, vocabulary) if hasattr(own, "get_vocab") else ()
        self._own = [tokenizer_fingerprint(own, limit) for limit in limits]

    def check(self, target: Any) -> None:
        """Check a target.

        Args:
            target: The teachers' logits.

        Raises:
            ConfigurationError: Its tokenizer is another one, or it names none and should.
        """
        named = target.tokenizer if isinstance(target, SparseTarget) else ""
        if self._insisted is not None:
            check_tokenizer(target, self._insisted)
        elif named and self._own and named not in self._own:
            check_tokenizer(target, self._own[0])
