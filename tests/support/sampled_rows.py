"""Rows of sampled keys, written and read with nothing but `struct`, as another program would."""

from __future__ import annotations

import struct
from collections.abc import Sequence


def sampled_row(
    positions: Sequence[Sequence[tuple[int, int]]],
    *,
    bits: int = 18,
    entropies: Sequence[float] | None = None,
) -> bytes:
    """The bytes of a row whose positions have these (id, count) entries."""
    width = 3 if bits == 18 else 4
    parts = [struct.pack("<I", len(positions))]
    parts.append(bytes(len(entries) for entries in positions))
    parts += [struct.pack("<e", each) for each in entropies or [0.0] * len(positions)]
    for entries in positions:
        parts += [struct.pack("<I", id_ | count << bits)[:width] for id_, count in entries]
    return b"".join(parts)


def read_sampled_row(row: bytes, *, bits: int = 18) -> list[dict[int, int]]:
    """Per position id -> count, of a row's bytes."""
    (count,) = struct.unpack_from("<I", row)
    width, at = (3 if bits == 18 else 4), 4 + 3 * count
    positions = []
    for entries in row[4 : 4 + count]:
        words = (int.from_bytes(row[at + width * n :][:width], "little") for n in range(entries))
        positions.append({word & (1 << bits) - 1: word >> bits for word in words})
        at += width * entries
    return positions
