"""Columns on the host: the arrays they consist of, their bytes, copies of them."""

from __future__ import annotations

from tutelage.schemas.record import Array, Column, Ragged


def arrays_of(column: Column) -> tuple[Array, ...]:
    """The arrays of a column."""
    return (column.values, column.lengths) if isinstance(column, Ragged) else (column,)


def nbytes_of(column: Column) -> int:
    """A column's bytes on the wire."""
    return sum(array.nbytes for array in arrays_of(column))


def copied(column: Column) -> Column:
    """A column in memory of its own."""
    return (
        Ragged(column.values.copy(), column.lengths.copy())
        if isinstance(column, Ragged)
        else column.copy()
    )
