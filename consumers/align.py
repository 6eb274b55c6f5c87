"""Teachers side by side, sample by sample: a batch from each, of the same rows, or an error.

Pure: no I/O, threads or clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tutelage.consumers.rebatch import Pieces, Rebatch
from tutelage.schemas.errors import LengthMismatch


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Aligned:
    """One batch's share of every teacher, in the order of registration; `first_row` is its place in the pass."""

    first_row: int
    rows: int
    shares: tuple[Pieces, ...]


class Align:
    """Draws one batch after the other from all teachers at once.

    Guarantee: row i of a batch is the same sample of every teacher by position; teachers of different length raise
    LengthMismatch before the batch in which they differ, or end at the shorter one if `truncate` was asked for.
    """

    def __init__(self, names: Sequence[str], streams: Sequence[Rebatch], *, first_row: int = 0, truncate: bool = False) -> None:
        self._names = list(names)
        self._streams = list(streams)
        self._truncate = truncate
        self.row = first_row

    def starving(self) -> list[int]:
        """The teachers whose next batch is not there yet."""
        return [index for index, stream in enumerate(self._streams) if not stream.ready() and stream.end is None]

    def pop(self) -> Aligned | None:
        """The next batch; None when the pass is over. Only when nobody starves."""
        ready = [stream.rows_ready if stream.ready() else 0 for stream in self._streams]
        rows = min(ready)
        if len(set(ready)) > 1 and not self._truncate:
            raise self.mismatch()
        if not rows:
            return None
        aligned = Aligned(first_row=self.row, rows=rows, shares=tuple(stream.pop(rows) for stream in self._streams))
        self.row += rows
        return aligned

    def mismatch(self) -> LengthMismatch:
        """The error for teachers of different length, as far as their lengths are known."""
        lengths = ", ".join(f"{name} {self._length(index)}" for index, name in enumerate(self._names))
        return LengthMismatch(
            f"the teachers differ in length: {lengths}; ask for on_length_mismatch='truncate' to end at the shortest"
        )

    def _length(self, index: int) -> str:
        stream = self._streams[index]
        return (
            f"has {stream.end.end.rows} rows" if stream.end is not None else f"has at least {self.row + stream.rows_ready} rows"
        )
