"""Rows of sampled keys, written and read bit by bit, as another program would."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise

Positions = Sequence[Sequence[tuple[int, int]]]


def high_bits_of(vocabulary: int) -> int:
    """The bits of an id above its lower 16."""
    return next(bits for bits in (0, 1, 2, 4, 8) if vocabulary <= 1 << 16 + bits)


def sampled_row(
    positions: Positions,
    *,
    draws: int = 25,
    vocabulary: int = 1000,
    entropies: Sequence[float] | None = None,
) -> bytes:
    """The bytes of a row whose positions have these (id, count) entries."""
    parts = [struct.pack("<I", len(positions))]
    for entries in positions:
        drawn = [number for number, (_, count) in enumerate(entries) for _ in range(count)]
        changes = sum((drawn[k] != drawn[k - 1]) << k - 1 for k in range(1, len(drawn)))
        parts.append(changes.to_bytes((draws + 6) // 8, "little"))
    parts += [struct.pack("<e", each) for each in entropies or [0.0] * len(positions)]
    ids = [id_ for entries in positions for id_, _ in entries]
    parts.append(struct.pack(f"<{len(ids)}H", *(id_ & 0xFFFF for id_ in ids)))
    bits = high_bits_of(vocabulary)
    high = sum((id_ >> 16) << bits * number for number, id_ in enumerate(ids))
    parts.append(high.to_bytes(-(-len(ids) * bits // 8), "little"))
    return b"".join(parts)


def read_sampled_row(
    row: bytes, *, draws: int = 25, vocabulary: int = 1000
) -> list[dict[int, int]]:
    """Per position id -> count, of a row's bytes."""
    (count,) = struct.unpack_from("<I", row)
    width, bits = (draws + 6) // 8, high_bits_of(vocabulary)
    changes = [int.from_bytes(row[4 + width * n :][:width], "little") for n in range(count)]
    runs: list[list[int]] = []
    for change in changes:
        begins = [0, *(k for k in range(1, draws) if change >> k - 1 & 1), draws]
        runs.append([stop - start for start, stop in pairwise(begins)])
    total, at = sum(map(len, runs)), 4 + (width + 2) * count
    low = struct.unpack_from(f"<{total}H", row, at)
    high = int.from_bytes(row[at + 2 * total :], "little")
    ids = iter([id_ | (high >> bits * n & (1 << bits) - 1) << 16 for n, id_ in enumerate(low)])
    return [{next(ids): size for size in sizes} for sizes in runs]
