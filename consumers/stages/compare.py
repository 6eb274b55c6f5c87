"""Compares what several teachers have of the same rows: ids, lengths, or all of a key.

No I/O, threads or clocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tutelage.consumers.stages.ragged import joined
from tutelage.schemas.errors import LengthMismatch, SampleMismatch
from tutelage.schemas.record import Array, Column, Ragged


def check_ids(key: str, names: Sequence[str], ids: Sequence[Array], first_row: int) -> None:
    """Check that the sample ids of all rows are equal.

    Args:
        key: The key of the ids.
        names: The names of the teachers that have it.
        ids: For each of them, its ids `[rows, ...]`.
        first_row: The number of the first row in its pass, for messages.

    Raises:
        SampleMismatch: Those of a row differ; the message names the first one.
    """
    for name, theirs in zip(names[1:], ids[1:], strict=True):
        differs = ids[0] != theirs
        if differs.any():
            row = int(np.argwhere(differs)[0][0])
            raise SampleMismatch(
                f"row {first_row + row}: {key!r} is {ids[0][row]} of {names[0]} but {theirs[row]} "
                f"of {name}; the teachers did not read the same inputs in the same order"
            )


def check_lengths(key: str, names: Sequence[str], lengths: Sequence[Array], first_row: int) -> None:
    """Check that ragged rows of all teachers have the same lengths.

    Args:
        key: The key.
        names: The names of the teachers that have it.
        lengths: For each of them, the lengths of its rows, `[rows]`.
        first_row: The number of the first row in its pass, for messages.

    Raises:
        LengthMismatch: Those of a row differ; the message names the first one.
    """
    # The teacher that is chosen may be the only one that was read.
    for name, theirs in zip(names[1 : len(lengths)], lengths[1:], strict=True):
        if not np.array_equal(lengths[0], theirs):
            row = int(np.flatnonzero(lengths[0] != theirs)[0])
            raise LengthMismatch(
                f"key {key!r}, row {first_row + row}: {names[0]} has {lengths[0][row]} elements, "
                f"{name} {theirs[row]}; rows of different length cannot be merged"
            )


def check_same(
    key: str, names: Sequence[str], columns: Sequence[Sequence[Column]], first_row: int
) -> None:
    """Check that all teachers have the same values of a key.

    Args:
        key: The key.
        names: The names of the teachers that have it.
        columns: For each of them, its rows as they are stored, in pieces.
        first_row: The number of the first row in its pass, for messages.

    Raises:
        SampleMismatch: A row differs; the message names the first one.
    """
    first = joined(columns[0])
    for name, pieces in zip(names[1:], columns[1:], strict=True):
        row = _first_difference(first, joined(pieces))
        if row is not None:
            raise SampleMismatch(
                f"row {first_row + row}: {key!r} of {names[0]} and of {name} differ, and should be "
                "the same; the teachers did not read the same inputs in the same order, or not in "
                "the same way"
            )


def _first_difference(ours: Column, theirs: Column) -> int | None:
    """The first row in which two columns of one dtype and shape differ; None if none does."""
    if not isinstance(ours, Ragged) or not isinstance(theirs, Ragged):
        assert not isinstance(ours, Ragged) and not isinstance(theirs, Ragged), "one description"
        return _first(_bytes(ours) != _bytes(theirs))
    lengths = ours.lengths != theirs.lengths
    if lengths.any():
        # The elements before it lie at the same places.
        row = int(lengths.argmax())
        before = _first_difference(ours.rows(0, row), theirs.rows(0, row))
        return row if before is None else before
    element = _first(_bytes(ours.values) != _bytes(theirs.values))
    if element is None:
        return None
    return int(np.searchsorted(ours.lengths.cumsum(), element, side="right"))


def _first(differs: Array) -> int | None:
    found = differs.any(axis=1)
    return int(found.argmax()) if found.any() else None


def _bytes(values: Array) -> Array:
    """Each row's bytes, uint8 `[rows, bytes]`."""
    rows = np.ascontiguousarray(values)
    return rows.reshape(len(rows), -1).view(np.uint8) if rows.size else rows.reshape(len(rows), 0)
