"""Where the records of a file lie: found once, by going from block to block.

No tensor is read: an uncompressed block costs one short read, a compressed one what it takes to
decompress a record's head. `Order` checks the records as it does for a student, so an index exists
only for a file that a student would read to its end.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from tutelage.consumers.position import Position
from tutelage.consumers.sources.base import ConsumedRecord
from tutelage.consumers.sources.file import FileSource
from tutelage.consumers.stages.order import Order, PassEnd
from tutelage.schemas.container_format import SYNC_BYTES
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.record import Array, End, Record, RecordHead
from tutelage.schemas.record_head import MAX_FIXED_HEAD_BYTES, decode_head
from tutelage.schemas.stored_block import StoredBlock

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# zstandard gives nothing before it has a whole block of its own, of up to 128 KiB.
_COMPRESSED_PEEK_BYTES = 160 << 10


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RecordIndex:
    """Where each record of a file lies.

    Args:
        file_bytes: The size of the file.
        sync: The file's sync marker, 16 random bytes.
        run_id: The run in it.
        passes: The size of each pass.
        offsets: int64 `[records of all passes]`: the byte where each record's block begins.
        ordinals: uint32, likewise: the record's number in its block. None if every block holds one
            record, as Tutelage writes them.
    """

    file_bytes: int
    sync: bytes
    run_id: str
    passes: tuple[End, ...]
    offsets: Array = field(repr=False)
    ordinals: Array | None = field(repr=False, default=None)

    def first_of(self, pass_index: int) -> int:
        """The place of a pass's first record in `offsets`."""
        return sum(end.records for end in self.passes[:pass_index])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _HeadOnly(Record):
    """A record of which only the head was read."""

    block: StoredBlock = field(repr=False)

    def load(self) -> Record:
        """Read, check and decode the record."""
        (record,) = self.block.records()
        return record


def build_index(reader: ContainerReader, source: FileSource) -> RecordIndex:
    """Find the records of a file.

    Args:
        reader: The open file.
        source: The same file, which says what is missing where it is unfinished.

    Returns:
        The index.

    Raises:
        TruncatedData: The file ends before the end of its run.
        DataError: A block's head is damaged, records are missing, or the counts of a pass differ
            from its end record.
    """
    order = Order(reader.stream, 1, Position())
    passes: list[End] = []
    offsets: list[int] = []
    ordinals: list[int] = []
    sequence, at = 0, reader.header.nbytes
    for block in reader.stored_blocks():
        for ordinal, record in enumerate(_records_of(reader, block)):
            order.push(
                ConsumedRecord(
                    partition=0,
                    offset=block.offset,
                    next_offset=block.next_offset,
                    record=record,
                    where=block.where,
                )
            )
            # There is one partition: what comes out is the record that was pushed, or the end.
            item = order.pop()
            if isinstance(item, ConsumedRecord):
                offsets.append(block.offset)
                ordinals.append(ordinal)
                sequence += 1
            elif isinstance(item, PassEnd):
                passes.append(item.end)
                sequence = 0
            if len(passes) == reader.stream.passes:
                return RecordIndex(
                    file_bytes=reader.nbytes,
                    sync=reader.header.sync,
                    run_id=reader.stream.run_id,
                    passes=tuple(passes),
                    offsets=np.array(offsets, np.int64),
                    ordinals=np.array(ordinals, np.uint32) if any(ordinals) else None,
                )
        at = block.next_offset
    return _raise_unfinished(
        source, Position(pass_index=len(passes), sequence=sequence, offsets=(at,))
    )


def _raise_unfinished(source: FileSource, position: Position) -> RecordIndex:
    """Raise the error of a student that reads on where the file ends."""
    try:
        next(source.read(position))
    finally:
        source.close()
    raise AssertionError("a source raises at the end of its file")


def _records_of(reader: ContainerReader, block: StoredBlock) -> Iterable[Record]:
    """A block's records: with only the head if there is one, else decoded."""
    head = _head_of(reader, block) if block.count == 1 else None
    if head is None:
        return block.each()
    return [_HeadOnly(head=head, columns={}, raw=memoryview(b""), block=block)]


def _head_of(reader: ContainerReader, block: StoredBlock) -> RecordHead | None:
    """The unchecked head of a block's only record; None if it cannot be had without the rest."""
    codec = reader.header.codec
    if codec == "null":
        return block.head()
    nbytes = min(block.next_offset - SYNC_BYTES - block.payload_at, _COMPRESSED_PEEK_BYTES)
    peeked = bytearray(nbytes)
    reader.read_into([peeked], block.payload_at, block.where)
    wanted = MAX_FIXED_HEAD_BYTES + len(reader.stream.run_id.encode())
    try:
        if codec == "deflate":
            start = zlib.decompressobj(wbits=-15).decompress(peeked, wanted)
        else:
            start = zstd.ZstdDecompressor().decompress(bytes(peeked), max_length=wanted)
        return decode_head(memoryview(start))[0]
    except (zlib.error, zstd.ZstdError, ValueError, IndexError):
        # Decompressing all of it says what is wrong.
        return None
