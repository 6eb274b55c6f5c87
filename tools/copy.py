"""Record and replay: a source's records to a sink, in order, byte for byte; an interrupted copy goes on where it stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tutelage.consumers.sources.base import ConsumedRecord, Position, Source, StreamInfo
from tutelage.consumers.stages.awaiting import Awaiting
from tutelage.consumers.stages.holding import Holding
from tutelage.consumers.stages.order import Order, PassEnd, made_sure
from tutelage.producers.sinks.base import Sink
from tutelage.schemas.codec import Encoded
from tutelage.schemas.errors import CorruptData, SinkExists, TutelageError
from tutelage.schemas.record import End, Record, RecordHead, Stream

log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class Copied:
    """What a copy or a look through a stream came to: records, rows and bytes of Avro, ends not counted."""

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
            raise CorruptData(f"{where}: pass {head.pass_index} ends with {end.rows:,} rows, but {self.rows:,} came")
        self.rows, self._unknown_at = 0, None


def in_order(
    source: Source, opened: StreamInfo, *, timeout_s: float, start: tuple[int, int] = (0, 0), counted: Copied | None = None
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
        source, order, timeout_s=timeout_s, log=log, hint="its teacher has not finished; started again, it goes on"
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
            counted.duplicates, counted.zombies = order.duplicates, order.zombies + source.stale_records


def copy_stream(
    source: Source, sink: Sink, *, timeout_s: float, progress: Callable[[Copied], None] = lambda copied: None
) -> Copied:
    """Copy a whole run. SinkExists if the sink holds another run, or this one whole; the caller closes both."""
    opened = source.open(timeout_s)
    tail = sink.tail()
    start = (0, 0)
    if tail is not None:
        if tail.stream.run_id != opened.stream.run_id or tail.finished:
            what = "all of this run" if tail.stream.run_id == opened.stream.run_id else f"another run, {tail.stream}"
            raise SinkExists(f"{sink.name} holds {what}; write elsewhere, or overwrite a file with --overwrite")
        start = (tail.pass_index, tail.sequence)
    sink.open(opened.stream, opened.description)
    copied = Copied()
    for record in in_order(source, opened, timeout_s=timeout_s, start=start, counted=copied):
        sink.write(record.head, sink.pack(Encoded(head=record.head, buffers=[record.raw], nbytes=record.nbytes)))
        copied.add(record)
        progress(copied)
    sink.finish()
    return copied
