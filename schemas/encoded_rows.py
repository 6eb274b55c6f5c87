"""The bytes of encoded rows -> arrays, checked. The layout of each encoding is defined here.

All numbers are little-endian. A row that is `Sampled` is these, one behind the other:

    positions   uint32
    changes     [positions, (draws + 6) // 8]   bit k - 1 says whether draw k, of 1 to draws - 1, is
                                                another id than draw k - 1; the lowest bit first
    entropy     float16 [positions]             of the whole distribution, in nats
    ids         uint16 [entries]                the lower 16 bits of each id that was drawn; they
                                                ascend in a position
    high        0, 1, 2, 4 or 8 bits an entry   their bits above, the lowest bits of a byte first

A vector that is `TopK` is `tail` float32, `ids` 3 bytes [k], `log_probs` float16 [k], the most
probable first. A vector that is `Int8` is `scale` float32, `values` int8 [n].

Knows no torch. The errors say what is wrong, not where: the caller knows that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tutelage.schemas.encodings import Int8, Sampled, TopK
from tutelage.schemas.record import Array, Column, KeySpec, Ragged

POSITIONS_BYTES = 4
ENTROPY_BYTES = 2


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


def decode_column(spec: KeySpec, column: Column) -> SampledRows | TopKVectors | Array:
    """Decode stored rows of an encoded key, and so check them.

    Args:
        spec: The key.
        column: Its rows, as they are stored.

    Returns:
        The rows of a sampled key, the vectors of a top-k key, or float32 of an int8 key.

    Raises:
        ValueError: The bytes are not what the key's encoding says.
    """
    values = column.values if isinstance(column, Ragged) else column
    if isinstance(spec.encoding, Sampled):
        assert isinstance(column, Ragged), "sampled rows are strings of bytes"
        return decode_sampled(
            values,
            column.lengths,
            spec.encoding,
            spec.shape[-1],
            positions_per_row=None if spec.ragged else math.prod(spec.shape[:-1]),
        )
    if isinstance(spec.encoding, TopK):
        return decode_topk(values, spec.encoding, spec.shape[-1])
    assert isinstance(spec.encoding, Int8), "there are three encodings"
    return decode_int8(values)


def decode_sampled(
    values: Array,
    lengths: Array,
    encoding: Sampled,
    vocabulary: int,
    *,
    positions_per_row: int | None = None,
) -> SampledRows:
    """Decode rows of a sampled key.

    Args:
        values: uint8 `[sum of lengths]`: the rows' bytes.
        lengths: int64 `[rows]`: the bytes of each row.
        encoding: Its encoding.
        vocabulary: The size of the vocabulary.
        positions_per_row: How many positions each row must have; None if rows differ.

    Raises:
        ValueError: The bytes are not such rows: ids out of range or not in order, bits that stand
            for no draw, or rows of another length.
    """
    width, draws = encoding.change_bytes, encoding.draws
    ends = np.cumsum(lengths)
    at = ends - lengths
    positions = _positions(values, at, lengths)
    if np.any(POSITIONS_BYTES + (width + ENTROPY_BYTES) * positions > lengths):
        raise ValueError("a row has fewer bytes than its positions need")
    if positions_per_row is not None and np.any(positions != positions_per_row):
        raise ValueError(f"a row does not have the {positions_per_row} positions of its key")
    at += POSITIONS_BYTES
    changes = _sections(values, at, width * positions).reshape(int(positions.sum()), width)
    at += width * positions
    entropy = _sections(values, at, ENTROPY_BYTES * positions).view("<f2")
    at += ENTROPY_BYTES * positions
    # The first draw of a position begins an entry, and so does each that differs from the one
    # before. An entry's count is the number of draws up to the next one.
    bits = np.unpackbits(changes, axis=1, bitorder="little")
    if bits[:, draws - 1 :].any():
        raise ValueError(f"a position has bits for more than {draws} draws")
    begins = np.ones((len(bits), draws), bool)
    begins[:, 1:] = bits[:, : draws - 1]
    entries = begins.sum(1, dtype=np.int64)
    first = np.flatnonzero(begins)
    counts = np.diff(first, append=begins.size).astype(np.int32)
    owners = np.repeat(np.arange(len(lengths)), positions)
    per_row = np.bincount(owners, weights=entries, minlength=len(lengths)).astype(np.int64)
    ids = _ids(values, at, ends, per_row, encoding.high_bits(vocabulary))
    _check_ids(ids, entries, vocabulary)
    return SampledRows(
        ids=ids,
        counts=counts,
        entries=entries,
        entropy=entropy.astype(np.float32),
        lengths=positions,
    )


def _positions(values: Array, starts: Array, lengths: Array) -> Array:
    """How many positions each row has, int64 `[rows]`."""
    if len(lengths) and int(lengths.min()) < POSITIONS_BYTES:
        raise ValueError("a row has no number of positions")
    heads = values[starts[:, None] + np.arange(POSITIONS_BYTES)]
    return np.ascontiguousarray(heads).view("<u4").reshape(-1).astype(np.int64)


def _ids(values: Array, starts: Array, ends: Array, entries: Array, high_bits: int) -> Array:
    """The ids of rows with so many entries, int32; their bytes lie from `starts` to `ends`."""
    high_bytes = -(-entries * high_bits // 8)
    if not np.array_equal(2 * entries + high_bytes, ends - starts):
        raise ValueError("a row has more or fewer bytes than its entries need")
    ids = _sections(values, starts, 2 * entries).view("<u2").astype(np.int32)
    if high_bits:
        high = _sections(values, starts + 2 * entries, high_bytes)
        shifts = np.arange(0, 8, high_bits, dtype=np.uint8)
        parts = (high[:, None] >> shifts & (1 << high_bits) - 1).reshape(-1)
        # The last byte of a row may hold fewer than it could.
        kept = _ranges(np.cumsum(high_bytes) - high_bytes, entries, 8 // high_bits)
        ids |= parts[kept].astype(np.int32) << 16
    return ids


def _ranges(starts: Array, sizes: Array, scale: int) -> Array:
    """The numbers `scale * start` to `scale * start + size` of each pair, concatenated."""
    offsets = scale * starts - (np.cumsum(sizes) - sizes)
    return np.repeat(offsets, sizes) + np.arange(int(sizes.sum()))


def _sections(values: Array, starts: Array, sizes: Array) -> Array:
    """One part of each row, concatenated."""
    parts = [
        values[start : start + size]
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)
    ]
    return np.concatenate(parts) if parts else values[:0]


def _check_ids(ids: Array, entries: Array, vocabulary: int) -> None:
    if not len(ids):
        return
    if int(ids.max()) >= vocabulary:
        raise ValueError(f"id {int(ids.max())} lies outside a vocabulary of {vocabulary}")
    ascends = np.diff(ids) > 0
    ascends[np.cumsum(entries)[:-1] - 1] = True
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
    packed = np.ascontiguousarray(values[..., 4 : 4 + 3 * k]).reshape(-1, 3)
    wide = np.zeros((len(packed), 4), np.uint8)
    wide[:, :3] = packed
    ids = wide.view("<u4").reshape(-1)
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


def decode_int8(values: Array) -> Array:
    """Decode vectors that travelled as int8.

    Args:
        values: uint8 `[..., 4 + n]`.

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
