"""One query on its way to its answer: the rows that the model gets of it, and what its answer holds.

No I/O, threads or clocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tutelage.producers.answers.query import Query
from tutelage.schemas.errors import ConfigurationError
from tutelage.schemas.queries import ANSWERED, GIVEN_UP, NOT_MINE, QUERY_ID, QUERY_STATUS
from tutelage.schemas.record import Array, Column, Description, Ragged


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Asked:
    """A query, and what is done with each of its rows.

    Args:
        query: The query.
        computed: Which rows the model gets, bool `[rows]`.
        status: What the answer says of each row, int8 `[rows]`; see `schemas/queries.py`.
    """

    query: Query
    computed: Array = field(repr=False)
    status: Array = field(repr=False)

    @classmethod
    def of(cls, query: Query, only: Mapping[str, int]) -> Asked:
        """Take the rows that are for this teacher.

        Args:
            query: The query; that of an end has no rows.
            only: Key -> the value that it has in this teacher's rows.
        """
        mine = np.ones(query.head.rows, np.bool_)
        for key, value in only.items():
            if key in query.columns:
                mine &= np.asarray(query.columns[key]) == value
        return cls(
            query=query, computed=mine, status=np.where(mine, ANSWERED, NOT_MINE).astype(np.int8)
        )

    def given_up(self) -> Asked:
        """The same with no row given to the model, because the query ended too many replicas."""
        return Asked(
            query=self.query,
            computed=np.zeros_like(self.computed),
            status=np.where(self.status == ANSWERED, GIVEN_UP, self.status).astype(np.int8),
        )

    def fully_computed(self) -> Asked:
        """The same with every row given to the model, whoever the rows are for."""
        return Asked(query=self.query, computed=np.ones_like(self.computed), status=self.status)

    @property
    def columns(self) -> Mapping[str, Column]:
        """Key -> the rows that the model gets."""
        if self.computed.all():
            return self.query.columns
        return {key: _where(column, self.computed) for key, column in self.query.columns.items()}

    def numbers(self, rows_per_record: int) -> Array:
        """The numbers in their pass of the rows that the model gets, int64."""
        return np.flatnonzero(self.computed) + self.query.head.sequence * rows_per_record

    def answer(
        self, columns: Mapping[str, Column], first: int, empty: Mapping[str, Column]
    ) -> dict[str, list[Column]]:
        """Return the columns of the answer, in pieces.

        Args:
            columns: Key -> what the model returned for all queries of the call.
            first: The number of this query's first row in them.
            empty: Key -> one row that stands in place of an answer; needed if a row has none.
        """
        count = int(self.computed.sum())
        if (self.status == ANSWERED).all():
            return {key: [rows_of(each, first, first + count)] for key, each in columns.items()}
        # Where each row's values are in the columns.
        places = first + np.cumsum(self.computed) - 1
        found: dict[str, list[Column]] = {
            key: [
                rows_of(columns[key], int(place), int(place) + 1) if status == ANSWERED else one
                for place, status in zip(places, self.status, strict=True)
            ]
            for key, one in empty.items()
        }
        found[QUERY_STATUS] = [self.status]
        if QUERY_ID in found:
            found[QUERY_ID] = [self.query.columns[QUERY_ID]]
        return found


def rows_of(column: Column, start: int, stop: int) -> Column:
    """The rows `start` to `stop` of a column, as views."""
    return column.rows(start, stop) if isinstance(column, Ragged) else column[start:stop]


def check_only(only: Mapping[str, int], description: Description, where: str) -> None:
    """Raise ConfigurationError if queries cannot be told apart by these keys.

    Args:
        only: Key -> the value that it has in this teacher's rows.
        description: What the queries hold.
        where: Their topic, for the message.
    """
    for key in only:
        spec = description.get(key)
        if spec is None:
            raise ConfigurationError(
                f"{where}: queries have no key {key!r}, by which this teacher knows its own; they "
                f"have {', '.join(map(repr, description))}"
            )
        if spec.shape or np.dtype(spec.wire_dtype.numpy_dtype).kind not in "iub":
            raise ConfigurationError(
                f"{where}: key {key!r} is {spec}; a teacher knows its own rows by one whole number "
                "a row"
            )


def _where(column: Column, chosen: Array) -> Column:
    if isinstance(column, Ragged):
        elements = np.repeat(chosen, column.lengths)
        return Ragged(column.values[elements], column.lengths[chosen])
    return column[chosen]
