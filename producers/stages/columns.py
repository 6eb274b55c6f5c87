"""Columns in host memory: their arrays, their size, and copies of them."""

from __future__ import annotations

from tutelage.schemas.record import Array, Column, Ragged


def _arrays(column: Column) -> tuple[Array, ...]:
    """The arrays that a column consists of."""
    return (column.values, column.lengths) if isinstance(column, Ragged) else (column,)


def nbytes_of(column: Column) -> int:
    """A column's size on the wire, in bytes."""
    return sum(array.nbytes for array in _arrays(column))


def copied(column: Column) -> Column:
    """A copy of a column."""
    return (
        Ragged(column.values.copy(), column.lengths.copy())
        if isinstance(column, Ragged)
        else column.copy()
    )
