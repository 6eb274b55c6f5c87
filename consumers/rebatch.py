"""Records of R rows -> batches of the student's size, without copying: a batch is pieces of records.

Pure: no I/O, threads or clocks. Knows the position behind each batch, so that reading can go on there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from tutelage.consumers.order import PassEnd
from tutelage.consumers.source import BEGINNING, Arrival, Position
from tutelage.schemas.errors import CorruptData
from tutelage.schemas.record import Column


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Piece:
    """The rows `start` to `stop` of one record's columns."""

    columns: Mapping[str, Column] = field(repr=False)
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pieces:
    """One teacher's share of a batch, and the position behind it."""

    rows: int
    pieces: tuple[Piece, ...]
    position: Position


class Rebatch:
    """Cuts one stream into batches.

    Guarantee: batch b holds rows b*size to (b+1)*size of the pass, whatever R was; only the last is shorter.
    """

    def __init__(self, batch_size: int, *, partitions: int, rows_per_record: int, position: Position) -> None:
        self._size = batch_size
        self._offsets = list(position.offsets) or [BEGINNING] * partitions
        self._at = position
        self._row = position.row
        self._records: deque[Arrival] = deque()
        self._rows = 0
        self._rows_seen = 0
        self._rows_per_record = rows_per_record
        self._first_sequence = position.sequence
        self.end: PassEnd | None = None

    def push(self, item: Arrival | PassEnd) -> None:
        """Take the next record, or the end of the pass. CorruptData if the end counts other rows than came."""
        if isinstance(item, PassEnd):
            self._refuse_other_count(item)
            self.end = item
            return
        rows = item.record.head.rows
        self._records.append(item)
        self._rows += rows
        self._rows_seen += rows
        if self._rows_seen == rows:
            # The first record may have been used in part before the position.
            self._rows -= self._row

    def _refuse_other_count(self, item: PassEnd) -> None:
        """An end must count the rows that came; behind the last record, which may be short, only the records can be compared."""
        size, ended = self._rows_per_record, item.end.rows
        rows = self._first_sequence * size + self._rows_seen
        alike = rows == ended if self._rows_seen else -(-ended // size) == self._first_sequence
        if not alike:
            raise CorruptData(f"pass {item.next_pass.pass_index - 1} ends with {ended} rows, but {rows} came")

    @property
    def rows_ready(self) -> int:
        """Rows of the next batch that are there."""
        return min(self._rows, self._size)

    def ready(self) -> bool:
        """Whether the next batch is there: a full one, or the pass's last."""
        return self._rows >= self._size or (self.end is not None and self._rows > 0)

    def pop(self, rows: int | None = None) -> Pieces:
        """The next batch, or its first `rows` rows. Only when `ready`."""
        wanted = min(self.rows_ready, self._size if rows is None else rows)
        left = wanted
        pieces: list[Piece] = []
        while left:
            arrival = self._records[0]
            head = arrival.record.head
            stop = min(head.rows, self._row + left)
            pieces.append(Piece(columns=arrival.record.columns, start=self._row, stop=stop))
            left -= stop - self._row
            self._row = stop
            if stop == head.rows:
                self._records.popleft()
                self._row = 0
                self._offsets[arrival.partition] = arrival.next_offset
                self._at = Position(pass_index=head.pass_index, sequence=head.sequence + 1)
            else:
                self._offsets[arrival.partition] = arrival.offset
                self._at = Position(pass_index=head.pass_index, sequence=head.sequence)
        self._rows -= wanted
        return Pieces(rows=wanted, pieces=tuple(pieces), position=self.position)

    @property
    def position(self) -> Position:
        """Where reading would go on after what was popped; in this pass until its end, which is read again then."""
        return Position(pass_index=self._at.pass_index, sequence=self._at.sequence, row=self._row, offsets=tuple(self._offsets))
