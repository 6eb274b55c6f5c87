"""Valid bytes made invalid: bits flipped, cut, inserted into, spliced, numbers blown up, lengths changed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from tutelage.schemas.varint import encode_long

_NUMBERS = (
    0,
    -1,
    1,
    63,
    64,
    127,
    128,
    2**15,
    2**31 - 1,
    2**31,
    -(2**31),
    2**32,
    2**53,
    2**62,
    2**63 - 1,
    -(2**63),
)
_TOKENS = (
    b"null", b"true", b"-1", b"1e999", b"NaN", b"-Infinity", b"1.5", b"[]", b"{}", b'""', b'"x"', b"\\ud800", b"\\u0000", b'"',
    b"9" * 40, b"[[[[[[", b",", b":", b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80", b"_u0_", b"_ud800_", b"__", b"k_",
    b'"type":', b'"name":"Tensor"', b'"key":', b'"shape":[-1]', b'"$tensor"', b'"$bytes"', b"0.5", b"-0",
)  # fmt: skip
# No number in Avro is longer: ten bytes with their highest bit set are one too many.
_ENDLESS = b"\xff" * 11


def _flip(data: bytearray, chooser: random.Random, others: Sequence[bytes]) -> None:
    at = chooser.randrange(len(data))
    data[at] ^= 1 << chooser.randrange(8)


def _overwrite(data: bytearray, chooser: random.Random, others: Sequence[bytes]) -> None:
    at = chooser.randrange(len(data))
    data[at] = chooser.choice((0, 1, 2, 0x7F, 0x80, 0xFF, chooser.randrange(256)))


def _cut_tail(data: bytearray, chooser: random.Random, others: Sequence[bytes]) -> None:
    del data[chooser.randrange(len(data)) :]


def _cut_out(data: bytearray, chooser: random.Random, others: Sequence[bytes]) -> None:
    at = chooser.randrange(len(data))
    del data[at : at + chooser.choice((1, 2, 4, 16, chooser.randint(1, len(data))))]


def _insert(data: bytearray, chooser: random.Random, others: Sequence[bytes]) -> None:
    at = chooser.randint(0, len(data))
    data[at:at] = chooser.choice(
        (chooser.randbytes(chooser.randint(1, 8)), bytes(chooser.randint(1, 300)), _ENDLESS)
    )


def _token(data: bytearray, chooser: random.Random, others: Sequence[bytes]) -> None:
    at = chooser.randint(0, len(data))
    data[at : at + chooser.choice((0, 0, 1, 2, 4))] = chooser.choice(_TOKENS)


def _number(data: bytearray, chooser: random.Random, others: Sequence[bytes]) -> None:
    """What may be a number becomes another: a length, a count, a size, a row."""
    at = chooser.randrange(len(data))
    stop = at + 1
    while stop < len(data) and data[stop - 1] >= 0x80:
        stop += 1
    small = chooser.randint(-3, 300)
    data[at:stop] = encode_long(chooser.choice((*_NUMBERS, small)))


def _digits(data: bytearray, chooser: random.Random, others: Sequence[bytes]) -> None:
    """A number in text becomes another."""
    places = [at for at, byte in enumerate(data) if 48 <= byte < 58]
    if places:
        at = chooser.choice(places)
        data[at : at + 1] = str(chooser.choice((*_NUMBERS, "1e999", "1.0", "true"))).encode()


def _splice(data: bytearray, chooser: random.Random, others: Sequence[bytes]) -> None:
    """A piece of another valid input, or of itself, to anywhere."""
    other = chooser.choice((*others, bytes(data)))
    start = chooser.randrange(len(other))
    piece = other[start : start + chooser.choice((1, 8, 64, len(other)))]
    at = chooser.randint(0, len(data))
    data[at : at + chooser.choice((0, len(piece)))] = piece


def _swap(data: bytearray, chooser: random.Random, others: Sequence[bytes]) -> None:
    size = chooser.choice((1, 4, 16))
    one, other = (chooser.randrange(len(data)) for _ in range(2))
    first, second = data[one : one + size], data[other : other + size]
    if len(first) == len(second) and abs(one - other) >= size:
        data[one : one + size], data[other : other + size] = second, first


_WAYS: tuple[Callable[[bytearray, random.Random, Sequence[bytes]], None], ...] = (
    _flip, _flip, _overwrite, _cut_tail, _cut_out, _insert, _token, _number, _number, _digits, _splice, _swap,
)  # fmt: skip


def mutated(data: bytes, others: Sequence[bytes], seed: int, times: int) -> bytes:
    """The bytes with so many things done to them."""
    chooser = random.Random(seed)
    changed = bytearray(data)
    for _ in range(times):
        if changed:
            chooser.choice(_WAYS)(changed, chooser, others)
    return bytes(changed)
