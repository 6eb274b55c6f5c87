"""Place in a run -> uniform numbers: the same on every device, and for every restart.

The generator is Philox4x32-10 ("Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011): a function
of a key and a counter, without state.
"""

from __future__ import annotations

import torch
import xxhash

from tutelage.producers.stages.places import Place

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF


def uniforms(
    place: Place, key: str, rows: int, row: torch.Tensor, position: torch.Tensor
) -> torch.Tensor:
    """Return a uniform number for each position of a batch's key.

    Where knowledge has as many rows as its input, the numbers depend on the rows' numbers in the
    pass, and not on how rows are divided into batches; otherwise on the batch's number.

    Args:
        place: The batch's place.
        key: The key.
        rows: How many rows the knowledge has.
        row: int64 `[n]`: the row of each position in the batch.
        position: int64 `[n]`: its number in the row.

    Returns:
        float64 `[n]`, in [0, 1), in steps of 2^-32, on the device of `row`.
    """
    first, batch = place.first_row, _WORD
    if first is None or place.rows not in (None, rows):
        first, batch = 0, place.batch
    seed = xxhash.xxh3_64_intdigest(f"{place.stream}\0{key}".encode())
    number = row + first
    if place.numbers is not None:
        number, batch = torch.from_numpy(place.numbers).to(row.device)[row], _WORD
    counter = [
        position & _WORD,
        number & _WORD,
        torch.full_like(row, batch & _WORD),
        # Passes are far fewer than 2^16, and rows than 2^48.
        (number >> 32 << 16 | place.pass_index) & _WORD,
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
