"""The blocks of a container file, and the records in them, read only when they are asked for.

A `ContainerReader` finds a block by its head; what the block holds is read, decompressed, decoded
and checked here, in any thread. One dense record without compression can be read straight into
the caller's memory (`StoredRecord.read_into`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tutelage.schemas.container_format import SYNC_BYTES, decompress
from tutelage.schemas.errors import CorruptData
from tutelage.schemas.record import Record, RecordHead
from tutelage.schemas.record_head import decode_head
from tutelage.schemas.tensor_layout import DenseLayout

if TYPE_CHECKING:
    from tutelage.schemas.container_reader import ContainerReader


class StoredBlock:
    """A block whose place in the file is known. May be read in any thread.

    Holds no memory except the bytes that were read to find it.
    """

    __slots__ = (
        "_peeked",
        "_reader",
        "count",
        "index",
        "next_offset",
        "offset",
        "payload_at",
        "where",
    )

    def __init__(
        self,
        reader: ContainerReader,
        *,
        index: int,
        offset: int,
        next_offset: int,
        count: int,
        payload_at: int,
        peeked: memoryview,
        where: str,
    ) -> None:
        self._reader = reader
        self.count = count
        self._peeked = peeked
        self.index = index
        self.offset = offset
        self.next_offset = next_offset
        self.payload_at = payload_at
        self.where = where

    def records(self) -> list[Record]:
        """Read, check and decode all its records. A foreign writer's block may hold millions."""
        return list(self.each())

    def each(self, max_bytes: int | None = None) -> Iterator[Record]:
        """Read and decompress the block now; decode and check each record when it is asked for.

        Args:
            max_bytes: A limit on the decompressed size, where it is less than the reader's own.

        Raises:
            CorruptData: The block is damaged, or decompresses to more than the limit.
        """
        reader = self._reader
        size = self.next_offset - self.payload_at
        if len(self._peeked) >= size:
            view = self._peeked[:size]
        else:
            buffer = np.empty(size, np.uint8)
            reader.read_into([buffer.data], self.payload_at, self.where)
            view = buffer.data
        if view[size - SYNC_BYTES :] != reader.header.sync:
            raise CorruptData(
                f"{self.where}: no sync marker at its end; its bytes were changed, or its size was"
            )
        # The size limit of this run's records is tighter than any limit chosen for all runs.
        record_limit = reader.codec.max_record_bytes(
            reader.stream.rows_per_record, reader.stream.run_id
        )
        limit = (
            reader.limits.record_bytes
            if record_limit is None
            else min(reader.limits.record_bytes, self.count * record_limit)
        )
        limit = limit if max_bytes is None else min(limit, max_bytes)
        payload = decompress(reader.header.codec, view[: size - SYNC_BYTES], self.where, limit)
        return reader.codec.decode_each(payload, self.count, self.where)

    def head(self) -> RecordHead | None:
        """The unchecked head of its only record; None if it holds several or is compressed."""
        if self.count != 1 or self._reader.header.codec != "null":
            return None
        try:
            return decode_head(self._peeked)[0]
        except (IndexError, ValueError):
            return None

    def record(self) -> StoredRecord | None:
        """Its only record, to be read later.

        Returns:
            None if the block holds several records or is compressed, or if the record is an end
            record, has a ragged key, or does not have the size that its head implies.
        """
        reader = self._reader
        if self.count != 1 or reader.header.codec != "null":
            return None
        try:
            head, checksum, position = decode_head(self._peeked)
        except (IndexError, ValueError):
            return None
        layout = reader.codec.dense_layout(head.rows) if head.end is None else None
        size = self.next_offset - self.payload_at - SYNC_BYTES
        if (
            layout is None
            or position + layout.nbytes != size
            or head.rows > max(size, reader.limits.empty_rows)
        ):
            return None
        first = layout.prefixes[0]
        if self._peeked[position : position + len(first)] != first:
            return None
        return StoredRecord(
            self,
            reader,
            head=head,
            checksum=checksum,
            layout=layout,
            nbytes=size,
            head_bytes=position,
        )


class StoredRecord:
    """A record that is still in its file. Its head is known, but checked only with the rest."""

    __slots__ = ("_block", "_checksum", "_data_at", "_layout", "_reader", "head", "nbytes")

    def __init__(
        self,
        block: StoredBlock,
        reader: ContainerReader,
        *,
        head: RecordHead,
        checksum: bytes,
        layout: DenseLayout,
        nbytes: int,
        head_bytes: int,
    ) -> None:
        self._block = block
        self._reader = reader
        self._checksum = checksum
        self._layout = layout
        self._data_at = block.payload_at + head_bytes + len(layout.prefixes[0])
        self.head = head
        self.nbytes = nbytes

    def load(self) -> Record:
        """Read, check and decode the record."""
        (record,) = self._block.records()
        return record

    def read_into(self, targets: Sequence[Sequence[memoryview]]) -> None:
        """Read the record's data into the caller's memory and check it.

        One system call per record, and no copy.

        Args:
            targets: Per key, in the schema's order: flat buffers of bytes that are filled one after
                the other. After an error their content is undefined.

        Raises:
            CorruptData: The record is damaged.
            TruncatedData: The file ends inside it.
        """
        layout, where = self._layout, self._block.where
        betweens = [bytearray(len(prefix)) for prefix in layout.prefixes[1:]]
        sync = bytearray(SYNC_BYTES)
        buffers: list[Any] = [*targets[0]]
        for between, key_targets in zip(betweens, targets[1:], strict=True):
            buffers.append(between)
            buffers += key_targets
        buffers.append(sync)
        self._reader.read_into(buffers, self._data_at, where)
        if sync != self._reader.header.sync:
            raise CorruptData(
                f"{where}: no sync marker at its end; its bytes were changed, or its size was"
            )
        if any(
            between != prefix for between, prefix in zip(betweens, layout.prefixes[1:], strict=True)
        ):
            raise CorruptData(
                f"{where}: the data of {self.head} do not match its size; its bytes were changed"
            )
        pieces = [piece for key_targets in targets for piece in key_targets]
        self._reader.codec.check_checksum(self.head, self._checksum, layout.shapes, pieces, where)
