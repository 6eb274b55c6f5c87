"""A source -> its records in order, ends included: the driver that record, replay, verify and inspect share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from tutelage.consumers.sources.base import ConsumedRecord, Position, Source, StreamInfo
from tutelage.consumers.stages.awaiting import Awaiting
from tutelage.consumers.stages.holding import Holding
from tutelage.consumers.stages.order import Order, PassEnd, made_sure
from tutelage.schemas.errors import CorruptData, TutelageError
from tutelage.schemas.record import End, Record, RecordHead, Stream

log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class Counts:
    """What was read of a stream.

    Args:
        passes: Passes that were read to their end.
        records: Records, without ends.
        rows: Their rows.
        nbytes: Their bytes of Avro.
        duplicates: Records that were written twice, and dropped.
        zombies: Records of a writer that was thought dead.
    """

    passes: int = 0
    records: int = 0
    rows: int = 0
    nbytes: int = 0
    duplicates: int = 0
    zombies: int = 0

    def add(self, record: Record) -> None:
        """Count a record."""
        if record.head.end is not None:
            self.passes += 1
            return
        self.records += 1
        self.rows += record.head.rows
        self.nbytes += record.nbytes


class PassRows:
    """Counts the rows of one pass after the other, and compares each count with the pass's end.

    `start` is the record of the first pass from which counting begins; what comes before it fills whole records.
    """

    def __init__(self, stream: Stream, start: int = 0) -> None:
        self.rows = start * stream.rows_per_record
        # Only the last record of a pass may be shorter: behind it there is no telling.
        self._unknown_at = start or None

    def add(self, head: RecordHead) -> None:
        """Count a record."""
        self.rows += head.rows

    def end(self, head: RecordHead, end: End, where: str) -> None:
        """Begin with the next pass. CorruptData naming `where` if the end says another number of rows than came."""
        if self.rows != end.rows and end.records != self._unknown_at:
            raise CorruptData(
                f"{where}: pass {head.pass_index} ends with {end.rows:,} rows, but {self.rows:,} came"
            )
        self.rows, self._unknown_at = 0, None


def in_order(
    source: Source,
    opened: StreamInfo,
    *,
    timeout_s: float,
    start: tuple[int, int] = (0, 0),
    counted: Counts | None = None,
) -> Iterator[Record]:
    """Every record of a stream from pass and sequence `start` on, ends included, until the last pass has ended.

    Of partitions that are not awaited it keeps a budget (`Holding`). WaitTimeout, naming the record, if it does not come within
    `timeout_s`, whatever else comes.
    """
    position = Position(pass_index=start[0], sequence=start[1])
    order = Order(opened.stream, opened.partitions, position)
    arrivals = source.read(position)
    passes = start[0]
    counted_rows = PassRows(opened.stream, start[1])
    holding = Holding(source, order)
    awaiting = Awaiting(
        source,
        order,
        timeout_s=timeout_s,
        log=log,
        hint="its teacher has not finished; started again, it goes on",
    )
    quiet = False
    try:
        while passes < opened.stream.passes:
            item: ConsumedRecord | PassEnd | None = order.pop()
            if item is not None:
                awaiting.came()
                quiet = False
                if isinstance(item, PassEnd):
                    counted_rows.end(item.record.head, item.end, source.name)
                    passes += 1
                else:
                    counted_rows.add(item.record.head)
                yield item.record.load()
                continue
            # Only now is it known which partition is awaited.
            holding.look()
            awaiting.tick(quiet=quiet)
            arrival = next(arrivals)
            quiet = arrival is None
            if arrival is not None:
                order.push(made_sure(order, arrival))
    except TutelageError as error:
        cause = source.explain(error)
        if cause is error:
            raise
        raise cause from error
    finally:
        arrivals.close()
        if counted is not None:
            counted.duplicates, counted.zombies = (
                order.duplicates,
                order.zombies + source.stale_records,
            )
