"""Place in a run -> uniform numbers: the same on every device, and for every restart.

The generator is Philox4x32-10 ("Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011): a function
of a key and a counter, without state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import xxhash

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A batch's place in a run.

    Args:
        run_id: The run.
        pass_index: The pass.
        batch: The batch's number in its pass.
    """

    run_id: str
    pass_index: int
    batch: int


def uniforms(place: Place, key: str, positions: torch.Tensor) -> torch.Tensor:
    """Return a uniform number for each position of a batch's key.

    Args:
        place: The batch's place.
        key: The key.
        positions: int64 `[n]`: the numbers of the positions in the batch.

    Returns:
        float64 `[n]`, in [0, 1), in steps of 2^-32, on the device of `positions`.
    """
    seed = xxhash.xxh3_64_intdigest(f"{place.run_id}\0{key}".encode())
    counter = [
        positions & _WORD,
        positions >> 32,
        torch.full_like(positions, place.batch & _WORD),
        torch.full_like(positions, place.pass_index & _WORD),
    ]
    words = philox(counter, (seed & _WORD, seed >> 32))
    return words[0].double() * 2.0**-32


def philox(counter: list[torch.Tensor], key: tuple[int, int]) -> list[torch.Tensor]:
    """Philox4x32-10.

    Args:
        counter: Four int64 tensors of 32-bit words.
        key: Two 32-bit words.

    Returns:
        Four int64 tensors of 32-bit words.
    """
    first, second = key
    a, b, c, d = counter
    for _ in range(_ROUNDS):
        high_a, low_a = _multiply(a, _MULTIPLIERS[0])
        high_c, low_c = _multiply(c, _MULTIPLIERS[1])
        a, b, c, d = high_c ^ b ^ first, low_c, high_a ^ d ^ second, low_a
        first, second = (first + _WEYL[0]) & _WORD, (second + _WEYL[1]) & _WORD
    return [a, b, c, d]


def _multiply(word: torch.Tensor, factor: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The upper and lower half of a product of 32-bit words, as int64."""
    # The product of two words may exceed int64, so the word is multiplied by halves.
    low = word * (factor & 0xFFFF)
    high = word * (factor >> 16)
    middle = high + (low >> 16)
    return middle >> 16, ((middle << 16) | (low & 0xFFFF)) & _WORD
