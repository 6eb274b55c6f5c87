"""Columns of encoded keys -> what people want to know of them: entropy, entries, the top ids."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tutelage.schemas.encoded_rows import SampledRows, TopKVectors, decode_column
from tutelage.schemas.errors import CorruptData
from tutelage.schemas.record import Array, Column, KeySpec, Ragged, RecordHead
from tutelage.tools.key_statistics import KeyStatistics

# The most probable ids of a position that are shown.
_TOP_IDS = 5


def add_encoded(statistics: KeyStatistics, spec: KeySpec, column: Column, head: RecordHead) -> None:
    """Add a column of an encoded key to its statistics.

    They are those of the entropy of a sampled key, of the probability outside the ids of a top-k
    key, and of the values of an int8 key.

    Raises:
        CorruptData: Bytes are not what their encoding says.
    """
    decoded = decode_encoded(spec, column, head)
    lengths: Array | None = column.lengths if isinstance(column, Ragged) else None
    if isinstance(decoded, SampledRows):
        values, lengths = decoded.entropy, decoded.lengths
        statistics.measure = "entropy in nats"
        statistics.positions += len(decoded.entries)
        statistics.entries += len(decoded.ids)
    elif isinstance(decoded, TopKVectors):
        values = np.exp(decoded.tail)
        statistics.measure = "probability of all other ids"
        statistics.positions += decoded.tail.size
        statistics.entries += decoded.ids.size
    else:
        values = decoded
    statistics.add(Ragged(values, lengths) if spec.ragged and lengths is not None else values)


def first_encoded_rows(
    spec: KeySpec, column: Column, count: int, head: RecordHead
) -> list[list[Any]]:
    """Return the first rows of an encoded key as Python's numbers.

    Args:
        spec: The key.
        column: Its rows.
        count: How many to return.
        head: The record's head, for messages.

    Returns:
        Per row a list of positions, each with its most probable ids as `[id, count]` or `[id,
        probability]`, the most probable first. Of an int8 key, the values of each row.
    """
    first = column.rows(0, count) if isinstance(column, Ragged) else column[:count]
    decoded = decode_encoded(spec, first, head)
    if isinstance(decoded, SampledRows):
        starts = np.cumsum(decoded.entries) - decoded.entries
        positions = [
            _top(decoded.ids[start : start + size], decoded.counts[start : start + size])
            for start, size in zip(starts, decoded.entries, strict=True)
        ]
        return _cut(positions, decoded.lengths)
    if isinstance(decoded, TopKVectors):
        k = decoded.ids.shape[-1]
        ids, probabilities = decoded.ids.reshape(-1, k), np.exp(decoded.log_probs.reshape(-1, k))
        positions = [_top(*pair) for pair in zip(ids, probabilities, strict=True)]
        per_row = np.full(count, math.prod(spec.inner[:-1]))
        return _cut(positions, first.lengths if isinstance(first, Ragged) else per_row)
    if isinstance(first, Ragged):
        return [part.tolist() for part in np.split(decoded, np.cumsum(first.lengths)[:-1])]
    return [row.tolist() for row in decoded]


def decode_encoded(
    spec: KeySpec, column: Column, head: RecordHead
) -> SampledRows | TopKVectors | Array:
    """Decode a column of an encoded key, and so check it.

    Args:
        spec: The key.
        column: Its rows in the record.
        head: The record's head, for messages.

    Raises:
        CorruptData: Bytes are not what their encoding says.
    """
    try:
        return decode_column(spec, column)
    except ValueError as error:
        raise CorruptData(
            f"key {spec.key!r} of {head}: {error}; this is no {spec.wire}, although the record's "
            "checksum is right"
        ) from error


def _top(ids: Array, weights: Array) -> list[list[Any]]:
    order = np.argsort(-weights, kind="stable")[:_TOP_IDS]
    pairs = zip(ids[order].tolist(), weights[order].tolist(), strict=True)
    return [[id_, weight] for id_, weight in pairs]


def _cut(positions: list[list[list[Any]]], lengths: Array) -> list[list[Any]]:
    stops = np.cumsum(lengths)
    return [
        positions[stop - length : stop]
        for stop, length in zip(stops.tolist(), lengths.tolist(), strict=True)
    ]
