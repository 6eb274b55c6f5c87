"""Batches of inputs -> their places in a run: the numbers of their batches and rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from tutelage.producers.stages.row_counts import rows_in
from tutelage.schemas.record import Array


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A batch's place in a run.

    Args:
        stream: What tells the run from all others: its teacher and its id.
        pass_index: The pass.
        batch: The batch's number in its pass.
        first_row: How many rows come before it in the pass; None if that is not known.
        rows: How many rows its input has; None if the knowledge itself was given.
        numbers: The number of each row in the pass, int64 `[rows]`, where they do not follow each
            other: the batch holds rows of several queries.
    """

    stream: str
    pass_index: int
    batch: int
    first_row: int | None = None
    rows: int | None = None
    numbers: Array | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        rows = "" if self.first_row is None else f", which begins with row {self.first_row}"
        return f"batch {self.batch} of pass {self.pass_index}{rows}"


class Places:
    """Numbers the batches of one pass, and their rows as far as they can be counted.

    Args:
        stream: As for `Place`.
        pass_index: The pass.
    """

    def __init__(self, stream: str, pass_index: int) -> None:
        self._place = Place(stream=stream, pass_index=pass_index, batch=0)
        self._batch = 0
        self._rows: int | None = 0

    def next(self, batch: Any) -> Place:
        """Return the place of the next batch of inputs."""
        number, first = self._batch, self._rows
        rows = rows_in(batch)
        self._batch += 1
        self._rows = first + rows if first is not None and rows is not None else None
        return replace(
            self._place, batch=number, first_row=None if rows is None else first, rows=rows
        )
