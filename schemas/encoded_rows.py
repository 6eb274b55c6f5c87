"""The bytes of encoded rows -> arrays, checked. The layout of each encoding is defined here.

All numbers are little-endian. A row that is `Sampled` is these, one behind the other:

    positions   uint32
    entries     uint8   [positions]         how many ids were drawn at each position
    entropy     float16 [positions]         of the whole distribution, in nats
    packed      3 or 4 bytes a drawn id     id in the low bits (18 or 24), its count in those above;
                                            ids ascend in a position

A vector that is `TopK` is `tail` float32, `ids` 3 bytes [k], `log_probs` float16 [k], the most
probable first. A vector that is `Int8` is `scale` float32, `values` int8 [n].

Knows no torch. The errors say what is wrong, not where: the caller knows that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tutelage.schemas.encodings import Int8, Sampled, TopK
from tutelage.schemas.record import Array

POSITIONS_BYTES = 4
#: Bytes of a position besides its entries: their number, and the entropy.
POSITION_BYTES = 3


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SampledRows:
    """Rows of a sampled key.

    Args:
        ids: int32 `[sum of entries]`.
        counts: int32 `[sum of entries]`.
        entries: int64 `[positions]`: how many ids each position has.
        entropy: float32 `[positions]`, in nats.
        lengths: int64 `[rows]`: how many positions each row has.
    """

    ids: Array
    counts: Array
    entries: Array
    entropy: Array
    lengths: Array


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TopKVectors:
    """Vectors of a top-k key.

    Args:
        ids: int32 `[..., k]`.
        log_probs: float32 `[..., k]`.
        tail: float32 `[...]`.
    """

    ids: Array
    log_probs: Array
    tail: Array


def sampled_lengths(values: Array, lengths: Array) -> Array:
    """Return how many positions each row of a sampled key has, int64 `[rows]`.

    Args:
        values: uint8 `[sum of lengths]`: the rows' bytes.
        lengths: int64 `[rows]`: the bytes of each row.

    Raises:
        ValueError: A row is shorter than its positions need.
    """
    if len(lengths) and int(lengths.min()) < POSITIONS_BYTES:
        raise ValueError("a row has no number of positions")
    starts = np.cumsum(lengths) - lengths
    heads = values[starts[:, None] + np.arange(POSITIONS_BYTES)]
    positions = np.ascontiguousarray(heads).view("<u4").reshape(-1).astype(np.int64)
    if np.any(POSITIONS_BYTES + POSITION_BYTES * positions > lengths):
        raise ValueError("a row has fewer bytes than its positions need")
    return positions


def decode_sampled(
    values: Array, lengths: Array, encoding: Sampled, vocabulary: int
) -> SampledRows:
    """Decode rows of a sampled key.

    Args:
        values: uint8 `[sum of lengths]`: the rows' bytes.
        lengths: int64 `[rows]`: the bytes of each row.
        encoding: Its encoding.
        vocabulary: The size of the vocabulary.

    Raises:
        ValueError: The bytes are not such rows: counts that do not add up to the draws, ids out of
            range or not in order, or rows of another length.
    """
    positions = sampled_lengths(values, lengths)
    starts = np.cumsum(lengths) - lengths + POSITIONS_BYTES
    entries = _sections(values, starts, positions).astype(np.int64)
    entropy = _sections(values, starts + positions, 2 * positions).view("<f2")
    starts += POSITION_BYTES * positions
    ends = np.cumsum(lengths)
    packed = _sections(values, starts, ends - starts)
    width = encoding.entry_bytes(vocabulary)
    owners = np.repeat(np.arange(len(lengths)), positions)
    per_row = np.bincount(owners, weights=entries, minlength=len(lengths))
    if not np.array_equal(per_row.astype(np.int64) * width, ends - starts):
        raise ValueError("a row has more or fewer bytes than its entries need")
    words = _words(packed.reshape(-1, width))
    bits = encoding.id_bits(vocabulary)
    ids = (words & ((1 << bits) - 1)).astype(np.int32)
    counts = (words >> bits).astype(np.int32)
    _check_sampled(ids, counts, entries, encoding.draws, vocabulary)
    return SampledRows(
        ids=ids,
        counts=counts,
        entries=entries,
        entropy=entropy.astype(np.float32),
        lengths=positions,
    )


def _sections(values: Array, starts: Array, sizes: Array) -> Array:
    """One part of each row, concatenated."""
    parts = [
        values[start : start + size]
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)
    ]
    return np.concatenate(parts) if parts else values[:0]


def _words(packed: Array) -> Array:
    """Little-endian numbers of 3 or 4 bytes, uint8 `[n, 3 or 4]`, as uint32 `[n]`."""
    wide = np.zeros((len(packed), 4), np.uint8)
    wide[:, : packed.shape[1]] = packed
    return wide.view("<u4").reshape(-1)


def _check_sampled(ids: Array, counts: Array, entries: Array, draws: int, vocabulary: int) -> None:
    if not len(entries):
        return
    if int(entries.min()) < 1:
        raise ValueError("a position has no entries")
    starts = np.cumsum(entries) - entries
    sums = np.add.reduceat(counts, starts)
    wrong = np.flatnonzero(sums != draws)
    if len(wrong):
        raise ValueError(
            f"the counts of position {int(wrong[0])} add up to {int(sums[wrong[0]])}, not to "
            f"{draws} draws"
        )
    if int(counts.min()) < 1:
        raise ValueError("an entry has the count 0")
    if int(ids.max()) >= vocabulary:
        raise ValueError(f"id {int(ids.max())} lies outside a vocabulary of {vocabulary}")
    ascends = np.diff(ids) > 0
    ascends[starts[1:] - 1] = True
    if not ascends.all():
        raise ValueError("the ids of a position do not ascend")


def decode_topk(values: Array, encoding: TopK, vocabulary: int) -> TopKVectors:
    """Decode vectors of a top-k key.

    Args:
        values: uint8 `[..., 4 + 5 k]`.
        encoding: Its encoding.
        vocabulary: The size of the vocabulary.

    Raises:
        ValueError: The bytes are not such vectors: ids out of range, or numbers that are no
            logarithms of probabilities.
    """
    k = encoding.k
    values = np.ascontiguousarray(values)
    outer = values.shape[:-1]
    tail = np.ascontiguousarray(values[..., :4]).view("<f4").reshape(outer)
    ids = _words(np.ascontiguousarray(values[..., 4 : 4 + 3 * k]).reshape(-1, 3))
    halves = np.ascontiguousarray(values[..., 4 + 3 * k :]).view("<f2")
    log_probs = halves.reshape(*outer, k).astype(np.float32)
    if ids.size and int(ids.max()) >= vocabulary:
        raise ValueError(f"id {int(ids.max())} lies outside a vocabulary of {vocabulary}")
    # A float16 near 0 may be rounded up, but not above 0.
    if not (np.all(log_probs <= 0) and np.all(tail <= 0)):
        raise ValueError("a log-probability lies above 0 or is not a number")
    return TopKVectors(
        ids=ids.astype(np.int32).reshape(*outer, k),
        log_probs=log_probs,
        tail=tail.astype(np.float32),
    )


def decode_int8(values: Array, encoding: Int8) -> Array:
    """Decode vectors that travelled as int8.

    Args:
        values: uint8 `[..., 4 + n]`.
        encoding: Their encoding.

    Returns:
        float32 `[..., n]`.

    Raises:
        ValueError: A scale is negative, infinite or not a number.
    """
    scale = np.ascontiguousarray(values[..., :4]).view("<f4")
    if not (np.all(np.isfinite(scale)) and np.all(scale >= 0)):
        raise ValueError("a scale is negative or not finite")
    found: Array = values[..., 4:].view(np.int8) * scale.astype(np.float32)
    return found
