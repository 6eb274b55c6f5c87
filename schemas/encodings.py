"""How vectors travel in few bytes: the encodings that a key may have on the wire besides a dtype.

An encoding replaces each vector of a key, its last dimension, by bytes. The key is then stored as a
tensor of uint8, dense or ragged, and all that moves, checks or repairs records treats it as one.
`encoded_rows.py` turns the bytes back. Knows no torch and no records.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

from tutelage.schemas.arguments import check_whole_number
from tutelage.schemas.errors import ConfigurationError, SchemaError

#: Which positions a teacher sends: the key of a mask `[rows, T]`, or a function from a batch's
#: knowledge to one. Positions where it is zero are left out.
Mask: TypeAlias = "str | Callable[[Mapping[str, Any]], Any] | None"

#: The dtypes that can be encoded.
ENCODED_DTYPES = ("float16", "bfloat16", "float32", "float64")
# An id takes 24 bits at most.
_LARGEST_VOCABULARY = 1 << 24
_MOST_DRAWS = 255
_FINGERPRINT = re.compile(r"[A-Za-z0-9._-]*")


def _check_temperature(temperature: Any) -> float:
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)):
        raise ConfigurationError(f"temperature is {temperature!r}; it must be a number above 0")
    number = float(temperature) if abs(temperature) < 2**1023 else math.inf
    if not (math.isfinite(number) and number > 0):
        raise ConfigurationError(f"temperature is {temperature!r}; it must be a number above 0")
    return number


def _check_tokenizer(tokenizer: Any) -> None:
    if not isinstance(tokenizer, str) or not _FINGERPRINT.fullmatch(tokenizer):
        raise ConfigurationError(
            f"tokenizer is {tokenizer!r}; give its fingerprint, of letters, digits, '.', '_' and '-'"
        )


def _check_mask(mask: Any) -> None:
    if mask is not None and not isinstance(mask, str) and not callable(mask):
        raise ConfigurationError(
            f"mask is a {type(mask).__name__}; give the key of a mask [rows, T], or a function "
            "from a batch's knowledge to one"
        )


def _check_options(encoding: Sampled | TopK) -> None:
    """Check what encodings of distributions have in common."""
    object.__setattr__(encoding, "temperature", _check_temperature(encoding.temperature))
    _check_tokenizer(encoding.tokenizer)
    _check_mask(encoding.mask)


@dataclass(frozen=True, slots=True)
class Sampled:
    """A distribution over a vocabulary as systematic draws: unbiased, 30 to 40 bytes a position.

    The key's last dimension holds logits. Of each position's softmax p, `draws` ids are drawn: the
    draws k = 0, 1, ... lie at (k + u) / draws of the cumulative distribution, with one uniform u per
    position. So the count of id i is the floor or the ceiling of draws * p_i and is
    draws * p_i on average, and the counts add up to `draws`. The student gets a `SparseTarget`.

    A position is stored as one bit per draw after the first, which says whether it is another id
    than the draw before; the entropy of p in nats (float16); and the ids that were drawn, in 16
    bits each, or 17, 18, 20 or 24 where the vocabulary needs them.

    Sampling follows "Sparse Logit Sampling" (ACL 2025, arXiv 2503.16870), which draws
    independently; systematic draws have a smaller error at fewer bytes (docs/language_models.md).

    Args:
        draws: Draws per position, from 1 to 255.
        temperature: Logits are divided by it before the softmax.
        tokenizer: A fingerprint of the tokenizer, so that teachers and students with another one
            are refused; not compared if empty.
        mask: Which positions to send; all if not given.

    Raises:
        ConfigurationError: An argument has the wrong type or value.
    """

    name: ClassVar[str] = "sampled"
    draws: int = 25
    temperature: float = 1.0
    tokenizer: str = ""
    mask: Mask = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "draws", check_whole_number("draws", self.draws, most=_MOST_DRAWS))
        _check_options(self)

    @property
    def change_bytes(self) -> int:
        """How many bytes hold the bits of a position: one for each draw after the first."""
        return (self.draws + 6) // 8

    def high_bits(self, vocabulary: int) -> int:
        """Return how many bits an id has above its lower 16.

        Args:
            vocabulary: The size of the vocabulary.

        Returns:
            0, 1, 2, 4 or 8, so that none of them crosses a byte.
        """
        return next(bits for bits in (0, 1, 2, 4, 8) if vocabulary <= 1 << 16 + bits)

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the row shape of the stored tensor: each row is a string of bytes.

        Args:
            shape: The key's row shape; -1 first if it is ragged.

        Returns:
            The row shape of uint8.

        Raises:
            SchemaError: Rows of this shape cannot be encoded so.
        """
        _check_positions(shape)
        _check_vocabulary(shape[-1])
        return (-1,)

    def __str__(self) -> str:
        return _text(f"{self.name}:{self.draws}", self.temperature, self.tokenizer)


@dataclass(frozen=True, slots=True)
class TopK:
    """A distribution over a vocabulary as its k most probable ids: biased, 5 k + 4 bytes a position.

    The key's last dimension holds logits. Of each position's softmax, the k most probable ids are
    kept (24 bits each) with the logarithms of their probabilities, which are not renormalised
    (float16), and the logarithm of the probability of all other ids (float32). The student gets a
    `SparseTarget`. A student that is trained on it without the others learns too sharp a
    distribution; `tutelage.losses.forward_kl` counts them as one more class.

    Args:
        k: How many ids to keep, from 1.
        temperature: Logits are divided by it before the softmax.
        tokenizer: A fingerprint of the tokenizer; not compared if empty.
        mask: Which positions to send; all if not given.

    Raises:
        ConfigurationError: An argument has the wrong type or value.
    """

    name: ClassVar[str] = "topk"
    k: int = 64
    temperature: float = 1.0
    tokenizer: str = ""
    mask: Mask = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", check_whole_number("k", self.k, most=_LARGEST_VOCABULARY))
        _check_options(self)

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the row shape of the stored tensor: a vector becomes 4 + 5 k bytes.

        Args:
            shape: The key's row shape; -1 first if it is ragged.

        Returns:
            The row shape of uint8.

        Raises:
            SchemaError: Rows of this shape cannot be encoded so.
        """
        _check_positions(shape)
        _check_vocabulary(shape[-1])
        if self.k > shape[-1]:
            raise SchemaError(f"{self.k} of {shape[-1]} ids cannot be kept; choose a smaller k")
        return (*shape[:-1], 4 + 5 * self.k)

    def __str__(self) -> str:
        return _text(f"{self.name}:{self.k}", self.temperature, self.tokenizer)


@dataclass(frozen=True, slots=True)
class Int8:
    """Vectors as int8 with one float32 scale each: a quarter of float32, for hidden states.

    A vector of n numbers is stored as its largest absolute value divided by 127 (float32), and
    each number divided by that and rounded (int8). The student gets a tensor of the model's dtype.

    Args:
        mask: Which positions to send; all if not given.

    Raises:
        ConfigurationError: `mask` has the wrong type.
    """

    name: ClassVar[str] = "int8"
    mask: Mask = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        _check_mask(self.mask)

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the row shape of the stored tensor: a vector of n numbers becomes 4 + n bytes.

        Args:
            shape: The key's row shape; -1 first if it is ragged.

        Returns:
            The row shape of uint8.
        """
        if not shape[-1]:
            raise SchemaError("its vectors hold nothing")
        return (*shape[:-1], 4 + shape[-1])

    def __str__(self) -> str:
        return self.name


Encoding: TypeAlias = Sampled | TopK | Int8
ENCODING_NAMES = (Sampled.name, TopK.name, Int8.name)
#: The forms that are written to a key's property `wire`, for messages.
ENCODING_FORMS = "sampled:DRAWS, topk:K, int8"


def parse_encoding(text: str) -> Encoding | None:
    """Parse an encoding, such as "sampled:25" or "topk:64,temperature=2,tokenizer=1f3a".

    Args:
        text: The text.

    Returns:
        The encoding; None if the text begins with the name of none, as a dtype does.

    Raises:
        ConfigurationError: A number or an option is wrong.
    """
    head, *options = text.split(",")
    name, colon, number = head.partition(":")
    if name not in ENCODING_NAMES:
        return None
    given: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or key in given or key not in ("temperature", "tokenizer", "mask"):
            raise ConfigurationError(
                f"{text!r}: {option!r} is no option of {name}; there are temperature=T, "
                "tokenizer=FINGERPRINT and mask=KEY"
            )
        given[key] = _number(text, value, float) if key == "temperature" else value
    if name == Int8.name:
        if colon or given.keys() - {"mask"}:
            raise ConfigurationError(f"{text!r}: int8 has no option but mask=KEY")
        return Int8(**given)
    if not colon:
        raise ConfigurationError(f"{text!r} lacks a number, as in {ENCODING_FORMS}")
    count = _number(text, number, int)
    return Sampled(count, **given) if name == Sampled.name else TopK(count, **given)


def _number(text: str, value: str, kind: type[int] | type[float]) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise ConfigurationError(f"{text!r}: {value!r} is no number") from None


def _check_positions(shape: tuple[int, ...]) -> None:
    if shape[0] == -1 and len(shape) > 2:
        raise SchemaError(f"ragged rows of shape {list(shape)}; only [-1, vocabulary] is allowed")


def _check_vocabulary(size: int) -> None:
    if not 1 <= size <= _LARGEST_VOCABULARY:
        raise SchemaError(f"a vocabulary of {size}; it must have 1 to {_LARGEST_VOCABULARY:,} ids")


def _text(head: str, temperature: float, tokenizer: str) -> str:
    options = f",temperature={temperature!r}" if temperature != 1 else ""
    return head + options + (f",tokenizer={tokenizer}" if tokenizer else "")
