"""An Avro container file -> blocks of records, as far as it is whole, with the exact place of what is not.

Reads any valid container of the closed shape: any number of records a block, codec null, deflate or zstandard. `stored_blocks` walks
from block to block by their heads; what a block holds is read when it is asked for, in any thread, and where it is one record of
dense keys without a codec, straight into where its rows are wanted (`StoredRecord.read_into`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tutelage.schemas.arguments import absolute_path
from tutelage.schemas.codec import Codec, DenseLayout, decode_head
from tutelage.schemas.container_format import (
    MAX_BUFFERS,
    MAX_HEADER_BYTES,
    SYNC_BYTES,
    decode_header,
    decompress,
)
from tutelage.schemas.disk import open_to_read
from tutelage.schemas.errors import ConfigurationError, CorruptData, TruncatedData
from tutelage.schemas.headers import (
    CHECKSUM_KEY,
    HEADER_PREFIX,
    check_format,
    identity_checksum,
    stream_of_headers,
)
from tutelage.schemas.knowledge_schema import description_of
from tutelage.schemas.limits import DEFAULT_LIMITS, Limits
from tutelage.schemas.record import Record, RecordHead
from tutelage.schemas.varint import decode_long

# What is read of a block first: its head, and of the record in it as much as says how it lies there.
_PEEK_BYTES = 256
# Small blocks are taken from one read of many.
_WINDOW_BYTES = 256 << 10
_SMALL_BLOCK_BYTES = 32 << 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """The records of one block; it begins at byte `offset` of the file, and the next one at `next_offset`."""

    index: int
    offset: int
    next_offset: int
    records: list[Record] = field(repr=False)


class ContainerReader:
    """Reads one file. Close it, or use it in a `with`; blocks that are still read then fail with an error.

    Guarantee: yields exactly the records that were written, in order, and then ends or raises with file, block and byte.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        verify: bool = True,
        limits: Limits = DEFAULT_LIMITS,
        name: str | None = None,
    ) -> None:
        self.path = absolute_path("path", path)
        self.limits = limits
        #: What messages call the file: as the user named it.
        self.name = name = os.fspath(path) if name is None else name
        try:
            self._fd = open_to_read(self.path, name)
        except OSError as error:
            raise ConfigurationError(f"{name} cannot be read: {error.strerror}") from error
        try:
            self.header = decode_header(_read_header(self._fd, name), name)
            schema = self.header.metadata.get("avro.schema", b"").decode("utf-8", "replace")
            self.schema = schema
            if any(header.startswith(HEADER_PREFIX) for header in self.header.metadata):
                # Before the schema: what a newer version of the format may hold there is not for this reader to judge.
                check_format(self.header.metadata, name)
            self.description = description_of(schema, name, limits)
            self.stream = stream_of_headers(self.header.metadata, name, limits)
            if self.header.metadata.get(CHECKSUM_KEY) != identity_checksum(
                self.stream, self.description
            ):
                raise CorruptData(
                    f"{name}: its header fails its checksum; its bytes were changed after the teacher wrote them"
                )
        except BaseException:
            os.close(self._fd)
            raise
        self.codec = Codec(self.description, verify=verify, limits=limits)

    def __enter__(self) -> ContainerReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file. May be called twice."""
        descriptor, self._fd = self._fd, -1
        if descriptor >= 0:
            os.close(descriptor)

    @property
    def nbytes(self) -> int:
        """The file's size now."""
        if self._fd < 0:
            raise ConfigurationError(f"{self.name}: the file was closed while it was read")
        return os.fstat(self._fd).st_size

    def blocks(self, offset: int | None = None) -> Iterator[Block]:
        """The blocks from byte `offset` (a block's beginning) to the file's end.

        Raises TruncatedData where the file is cut inside a block, CorruptData where bytes are wrong.
        """
        for index, stored in enumerate(self.stored_blocks(offset)):
            yield Block(
                index=index,
                offset=stored.offset,
                next_offset=stored.next_offset,
                records=stored.records(),
            )

    def stored_blocks(self, offset: int | None = None) -> Iterator[StoredBlock]:
        """The blocks from byte `offset` to the file's end, known by their heads; nothing else of them was read or checked.

        Raises TruncatedData where the file is cut inside a block, CorruptData where a head is wrong.
        """
        position = self.header.nbytes if offset is None else offset
        index = 0
        known_bytes = self.nbytes
        window, window_at, read_bytes = b"", position, _PEEK_BYTES
        while True:
            if (
                position + _PEEK_BYTES > window_at + len(window)
                and window_at + len(window) < known_bytes
            ) or not window:
                window, window_at = self._peek(read_bytes, position), position
            start = position - window_at
            if start >= len(window):
                return
            where = f"{self.name}, block {index} at byte {position}"
            if offset is not None:
                where = f"{self.name}, block at byte {position}"
            count, size, head_bytes = self._block_head(window, start, known_bytes, where)
            next_offset = position + head_bytes + size + SYNC_BYTES
            if next_offset > known_bytes:
                known_bytes = self.nbytes  # a file that is still written grows
                if next_offset > known_bytes:
                    missing = next_offset - known_bytes
                    raise TruncatedData(
                        f"{where}: the file is cut: {missing} of the block's bytes are missing"
                    )
            yield StoredBlock(
                self, index=index, offset=position, next_offset=next_offset, count=count, payload_at=position + head_bytes,
                peeked=memoryview(window)[start + head_bytes :], where=where,
            )  # fmt: skip
            read_bytes = _WINDOW_BYTES if size < _SMALL_BLOCK_BYTES else _PEEK_BYTES
            position, index = next_offset, index + 1

    def holds_sync_after(self, offset: int) -> bool:
        """Whether a sync marker stands anywhere behind byte `offset`."""
        step, overlap = 16 << 20, SYNC_BYTES - 1
        return any(
            self.header.sync in self._peek(step + overlap, start)
            for start in range(offset, self.nbytes, step)
        )

    def _peek(self, nbytes: int, position: int) -> bytes:
        """Up to so many bytes from a position on. CorruptData if the disk fails."""
        try:
            return os.pread(self._fd, nbytes, position)
        except (OSError, OverflowError) as error:
            said = error.strerror if isinstance(error, OSError) else "there is no such position"
            if self._fd < 0:
                raise ConfigurationError(
                    f"{self.name}: the file was closed while it was read"
                ) from error
            raise CorruptData(f"{self.name}, byte {position}: it cannot be read: {said}") from error

    def read_into(self, buffers: Sequence[Any], offset: int, where: str) -> None:
        """Fill the buffers, one behind the other, from byte `offset` on. TruncatedData naming `where` if the file ends before."""
        for first in range(0, len(buffers), MAX_BUFFERS):
            pending = [memoryview(buffer) for buffer in buffers[first : first + MAX_BUFFERS]]
            wanted = sum(buffer.nbytes for buffer in pending)
            while wanted:
                try:
                    got = os.preadv(self._fd, pending, offset)
                except OSError as error:
                    if self._fd < 0:
                        raise ConfigurationError(
                            f"{where}: the file was closed while it was read"
                        ) from error
                    raise CorruptData(f"{where}: it cannot be read: {error.strerror}") from error
                if not got:
                    raise TruncatedData(
                        f"{where}: the file is cut: {wanted} of the block's bytes are missing"
                    )
                wanted, offset = wanted - got, offset + got
                while wanted and got >= pending[0].nbytes:
                    got -= pending.pop(0).nbytes
                if wanted and got:
                    pending[0] = pending[0][got:]

    def _block_head(
        self, window: bytes, start: int, known_bytes: int, where: str
    ) -> tuple[int, int, int]:
        try:
            count, position = decode_long(window, start)
            size, position = decode_long(window, position)
        except IndexError as error:
            raise TruncatedData(f"{where}: the file is cut inside the block's head") from error
        except ValueError as error:
            raise CorruptData(f"{where}: the block's head is broken: {error}") from error
        if not 0 < count <= max(size, 1) or size < 0:
            raise CorruptData(
                f"{where}: the block's head is broken: {count} records in {size} bytes"
            )
        if size > self.limits.record_bytes:
            raise CorruptData(
                f"{where}: a block of {size} bytes is over the limit of {self.limits.record_bytes}"
            )
        if self.header.codec == "null" and size > max(
            known_bytes, self.nbytes if size > known_bytes else 0
        ):
            raise TruncatedData(
                f"{where}: the file is cut: the block has {size} bytes, the whole file {known_bytes}"
            )
        return count, size, position - start


class StoredBlock:
    """A block whose place in the file is known. Holds no memory but what was read to find it; may be read in any thread."""

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
        self, reader: ContainerReader, *, index: int, offset: int, next_offset: int, count: int, payload_at: int,
        peeked: memoryview, where: str,
    ) -> None:  # fmt: skip
        self._reader = reader
        self.count = count
        self._peeked = peeked
        self.index = index
        self.offset = offset
        self.next_offset = next_offset
        self.payload_at = payload_at
        self.where = where

    def records(self) -> list[Record]:
        """Its records, read, checked and decoded, all at once: of a block that another wrote there may be millions."""
        return list(self.each())

    def each(self, most: int | None = None) -> Iterator[Record]:
        """Its records. The block is read and unpacked now; each record is decoded and checked when it is asked for.

        CorruptData if the block unpacks to more than `most` bytes, unless the source's limit is less.
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
        # What the run's records can have at most is a better limit than any chosen for all runs.
        each = reader.codec.most_bytes(reader.stream.rows_per_record, reader.stream.run_id)
        limit = (
            reader.limits.record_bytes
            if each is None
            else min(reader.limits.record_bytes, self.count * each)
        )
        limit = limit if most is None else min(limit, most)
        payload = decompress(reader.header.codec, view[: size - SYNC_BYTES], self.where, limit)
        return reader.codec.decode_each(payload, self.count, self.where)

    def head(self) -> RecordHead | None:
        """The head of its only record, as it stands there, not checked; None if it holds several or is compressed."""
        if self.count != 1 or self._reader.header.codec != "null":
            return None
        try:
            return decode_head(self._peeked)[0]
        except (IndexError, ValueError):
            return None

    def record(self) -> StoredRecord | None:
        """Its only record, to be read later; None if it holds several, is compressed, or has anything but full dense keys."""
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
    """A record that is still in its file: its head is known, but not checked before the rest is read."""

    __slots__ = ("_block", "_checksum", "_data_at", "_layout", "_reader", "head", "nbytes")

    def __init__(
        self, block: StoredBlock, reader: ContainerReader, *, head: RecordHead, checksum: bytes, layout: DenseLayout,
        nbytes: int, head_bytes: int,
    ) -> None:  # fmt: skip
        self._block = block
        self._reader = reader
        self._checksum = checksum
        self._layout = layout
        self._data_at = block.payload_at + head_bytes + len(layout.prefixes[0])
        self.head = head
        self.nbytes = nbytes

    def load(self) -> Record:
        """The record, read, checked and decoded."""
        (record,) = self._block.records()
        return record

    def read_into(self, targets: Sequence[Sequence[memoryview]]) -> None:
        """Read each key's data, in the schema's order, into its targets: flat buffers of bytes, one behind the other.

        One system call a record, and no copy. Raises what reading it otherwise would; the targets then hold anything.
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
                f"{where}: {self.head} does not hold what its size says; its bytes were changed"
            )
        pieces = [piece for key_targets in targets for piece in key_targets]
        self._reader.codec.refuse_changed(self.head, self._checksum, layout.shapes, pieces, where)


def _read_header(descriptor: int, name: str) -> bytes:
    try:
        start = os.pread(descriptor, 1 << 16, 0)
        # A schema of many keys may be long; few are, so little is read first.
        while len(start) < MAX_HEADER_BYTES and not _holds_header(start):
            more = os.pread(descriptor, len(start), len(start))
            if not more:
                break
            start += more
    except OSError as error:
        raise CorruptData(f"{name} cannot be read: {error.strerror}") from error
    return start


def _holds_header(start: bytes) -> bool:
    try:
        decode_header(start, "")
    except CorruptData:
        return not start.startswith(b"Obj")
    return True
