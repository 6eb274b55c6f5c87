"""A damaged file -> what is whole of it, as a file that its teacher can go on with."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.consumers.position import Position
from tutelage.consumers.sources.base import ConsumedRecord
from tutelage.consumers.stages.order import Order, PassEnd
from tutelage.schemas.codec import Encoded
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.container_writer import ContainerWriter, finished_path, partial_path
from tutelage.schemas.errors import ConfigurationError, DataError, SinkExists
from tutelage.schemas.record import Record, Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Repaired:
    """What a repair wrote, the first record that is missing, and why reading ended there."""

    source: str
    target: str
    complete: bool
    passes: int
    of_passes: int
    records: int
    rows: int
    next_pass: int
    next_record: int
    next_row: int
    stopped: str

    def said(self) -> list[str]:
        """The same in words, line by line."""
        whole = (
            f"{self.rows:,} rows in {self.records:,} records, {self.passes} of {self.of_passes} "
            "passes to their end"
        )
        if self.complete:
            return [f"{self.target}: {whole}; nothing is missing"]
        return [
            f"{self.target}: {whole}, are whole",
            f"missing: pass {self.next_pass} from record {self.next_record} "
            f"(row {self.next_row:,}) on ({self.stopped})",
            f"to get it: start the same teacher with --out {self.target.removesuffix('.partial')}; it writes from there on",
        ]

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


def repair(file: Path, out: Path) -> Repaired:
    """Copy a file's records in order up to the first that is not whole.

    Raises:
        ConfigurationError: `out` is no name for a finished file, or its folder is missing.
        SinkExists: `out` is there.
        DataError: Not even the header of `file` is whole.
    """
    target = finished_path("OUT", out)
    for taken, name in ((target, out), (partial_path(target), partial_path(out))):
        if os.path.lexists(taken):
            raise SinkExists(f"{name} is there already; name another file")
    if not os.path.isdir(target.parent):
        raise ConfigurationError(f"{out}: there is no folder {target.parent}; make it first")
    with ContainerReader(file) as reader:
        writer = ContainerWriter.create(
            target, reader.stream, reader.description, reader.header.codec, replace=False
        )
        copy = _Copy(reader.stream, writer)
        stopped = f"{file} ends at byte {reader.nbytes}"
        try:
            try:
                copy.take(reader)
            except DataError as error:
                stopped = str(error)
            copy.write_held()
            if copy.complete:
                writer.finish()
            else:
                writer.sync()
        finally:
            writer.close()
    return Repaired(
        source=str(file),
        target=str(out if copy.complete else partial_path(out)),
        complete=copy.complete,
        passes=copy.passes,
        of_passes=reader.stream.passes,
        records=copy.records,
        rows=copy.rows,
        next_pass=copy.passes,
        next_record=copy.sequence,
        next_row=copy.pass_rows,
        stopped="" if copy.complete else stopped,
    )


class _Copy:
    """Writes a file's records in order, as far as they are whole, and counts them.

    A record with fewer rows than the others is held until what follows proves that it is its pass's
    last: a teacher could not continue behind one that is not.
    """

    def __init__(self, stream: Stream, writer: ContainerWriter) -> None:
        self._stream = stream
        self._writer = writer
        self._held: Record | None = None
        self.passes = self.records = self.rows = self.sequence = self.pass_rows = 0

    @property
    def complete(self) -> bool:
        """Whether all passes were written to their end."""
        return self.passes == self._stream.passes

    def take(self, reader: ContainerReader) -> None:
        """Write what is whole. DataError at the first record that is not."""
        order = Order(self._stream, 1, Position())
        for block in reader.stored_blocks():
            for record in block.each():
                try:
                    order.push(
                        ConsumedRecord(
                            partition=0,
                            offset=block.offset,
                            next_offset=block.next_offset,
                            record=record,
                            where=block.where,
                        )
                    )
                    while (item := order.pop()) is not None:
                        self._take_one(item)
                except DataError:
                    # What follows contradicts the record that was held.
                    self._held = None
                    raise
            if self.complete:
                return

    def _take_one(self, item: ConsumedRecord | PassEnd) -> None:
        record = item.record.load()
        if isinstance(item, PassEnd):
            self.write_held()
            self._write(record)
            self.passes, self.sequence, self.pass_rows = self.passes + 1, 0, 0
        elif record.head.rows < self._stream.rows_per_record:
            self._held = record
        else:
            self._write(record)

    def write_held(self) -> None:
        """Write the record that was held, if there is one."""
        held, self._held = self._held, None
        if held is not None:
            self._write(held)

    def _write(self, record: Record) -> None:
        encoded = Encoded(head=record.head, buffers=[record.raw], nbytes=record.nbytes)
        self._writer.append(self._writer.pack(encoded))
        if record.head.end is None:
            self.records, self.rows = self.records + 1, self.rows + record.head.rows
            self.sequence, self.pass_rows = self.sequence + 1, self.pass_rows + record.head.rows
