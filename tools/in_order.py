"""A source -> every record of its run in order, ends included: what all tools read with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tutelage.consumers.position import Position
from tutelage.consumers.sources.base import Source, StreamInfo
from tutelage.consumers.stages.order import PassEnd
from tutelage.consumers.stages.order_stage import OrderStage
from tutelage.schemas.record import Record


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


def in_order(
    source: Source,
    opened: StreamInfo,
    *,
    timeout_s: float,
    start: tuple[int, int] = (0, 0),
    counted: Counts | None = None,
) -> Iterator[Record]:
    """Yield every record of a run, end records included, until its last pass has ended.

    Args:
        source: The source, which is open.
        opened: What it found.
        timeout_s: How long to wait for the next record, in seconds, whatever else comes.
        start: The pass and the number of the first record.
        counted: Where to note the records that were dropped.

    Raises:
        WaitTimeout: The next record did not come in time; the message names it.
        DataError: Data are wrong or missing; the message says where.
        TransportError: Reading failed.
    """
    passes = start[0]
    position = Position(pass_index=passes, sequence=start[1])
    records = OrderStage(source, opened, position, timeout_s=timeout_s)
    try:
        while passes < opened.stream.passes:
            item = records.poll()
            if item is not None:
                passes += isinstance(item, PassEnd)
                yield item.record.load()
                # Kept here, its memory would not be freed while the next record is awaited.
                del item
    finally:
        records.close()
        if counted is not None:
            counted.duplicates = records.order.duplicates
            counted.zombies = records.zombies
