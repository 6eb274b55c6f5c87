"""A damaged file -> what is whole of it, as a file that its teacher can go on with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.consumers.order import Order, PassEnd
from tutelage.consumers.source import Arrival, Position
from tutelage.schemas.codec import Encoded
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.container_writer import ContainerWriter, partial_path
from tutelage.schemas.errors import DataError, SinkExists


@dataclass(frozen=True, kw_only=True, slots=True)
class Repaired:
    """What came of a repair: what was written where, the record that is missing first, and why reading ended there."""

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

    def said(self) -> str:
        """The same in words."""
        whole = f"{self.rows:,} rows in {self.records:,} records, {self.passes} of {self.of_passes} passes to their end"
        if self.complete:
            return f"{self.target}: {whole}; nothing is missing"
        return (
            f"{self.target}: {whole}, are whole\n"
            f"missing: pass {self.next_pass} from record {self.next_record} (row {self.next_row:,}) on ({self.stopped})\n"
            f"to get it: start the same teacher with --out {self.target.removesuffix('.partial')}; it writes from there on"
        )

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


def repaired(file: Path, out: Path) -> Repaired:
    """Copy a file's records in order up to the first that is not whole. SinkExists if `out` is there, DataError if not even the header is."""
    for taken in (out, partial_path(out)):
        if taken.exists():
            raise SinkExists(f"{taken} is there already; name another file")
    with ContainerReader(file) as reader:
        stream = reader.stream
        order = Order(stream, 1, Position())
        writer = ContainerWriter.create(out, stream, reader.description, reader.header.codec)
        passes = records = rows = sequence = pass_rows = 0
        stopped = f"{file} ends at byte {reader.nbytes}"
        try:
            for block in reader.blocks():
                where = f"{file}, block {block.index} at byte {block.offset}"
                for record in block.records:
                    order.push(
                        Arrival(partition=0, offset=block.offset, next_offset=block.next_offset, record=record, where=where)
                    )
                    while (item := order.pop()) is not None:
                        kept = item.record.load()
                        writer.append(writer.pack(Encoded(head=kept.head, buffers=[kept.raw], nbytes=kept.nbytes)))
                        if isinstance(item, PassEnd):
                            passes, sequence, pass_rows = passes + 1, 0, 0
                        else:
                            records, rows = records + 1, rows + kept.head.rows
                            sequence, pass_rows = sequence + 1, pass_rows + kept.head.rows
                if passes == stream.passes:
                    break
        except DataError as error:
            stopped = str(error)
        except BaseException:
            writer.close()
            raise
        complete = passes == stream.passes
        if complete:
            writer.finish()
        else:
            writer.sync()
            writer.close()
    return Repaired(
        source=str(file),
        target=str(out if complete else partial_path(out)),
        complete=complete,
        passes=passes,
        of_passes=stream.passes,
        records=records,
        rows=rows,
        next_pass=passes,
        next_record=sequence,
        next_row=pass_rows,
        stopped="" if complete else stopped,
    )
