"""An Avro container file -> blocks of records, as far as it is whole, with the exact place of what is not.

Reads any valid container of the closed shape: any number of records a block, codec null, deflate or zstandard. Blocks are read
with one system call each, which also brings the head of the next.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tutelage.schemas.codec import Codec
from tutelage.schemas.container_format import MAX_BLOCK_BYTES, MAX_HEADER_BYTES, SYNC_BYTES, decode_header, decompress
from tutelage.schemas.errors import ConfigurationError, CorruptData, TruncatedData
from tutelage.schemas.knowledge_schema import description_of
from tutelage.schemas.record import Record
from tutelage.schemas.topic import CHECKSUM_KEY, identity_checksum, stream_of_headers
from tutelage.schemas.varint import decode_long

_HEAD_BYTES = 20  # two longs of at most ten bytes each: a block's count and size


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """The records of one block; it begins at byte `offset` of the file, and the next one at `next_offset`."""

    index: int
    offset: int
    next_offset: int
    records: list[Record] = field(repr=False)


class ContainerReader:
    """Reads one file. Close it, or use it in a `with`.

    Guarantee: yields exactly the records that were written, in order, and then ends or raises with file, block and byte.
    """

    def __init__(self, path: Path, *, verify: bool = True) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
        try:
            if os.path.isdir(path):
                raise ConfigurationError(f"{path} is a folder; name an Avro file")
            self.header = decode_header(_read_header(self._fd), str(path))
            schema = self.header.metadata.get("avro.schema", b"").decode("utf-8", "replace")
            self.schema = schema
            self.description = description_of(schema, str(path))
            self.stream = stream_of_headers(self.header.metadata, str(path))
            if self.header.metadata.get(CHECKSUM_KEY) != identity_checksum(self.stream, self.description):
                raise CorruptData(f"{path}: its header fails its checksum; its bytes were changed after the teacher wrote them")
        except BaseException:
            os.close(self._fd)
            raise
        self.codec = Codec(self.description, verify=verify)

    def __enter__(self) -> ContainerReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def nbytes(self) -> int:
        """The file's size now."""
        return os.fstat(self._fd).st_size

    def blocks(self, offset: int | None = None) -> Iterator[Block]:
        """The blocks from byte `offset` (a block's beginning) to the file's end.

        Raises TruncatedData where the file is cut inside a block, CorruptData where bytes are wrong.
        """
        position = self.header.nbytes if offset is None else offset
        index = 0
        head = os.pread(self._fd, _HEAD_BYTES, position)
        while head:
            where = f"{self.path}, block {index} at byte {position}"
            if offset is not None:
                where = f"{self.path}, block at byte {position}"
            count, size, head_bytes = self._block_head(head, where)
            # One read brings the payload, the sync marker and the next block's head.
            buffer = np.empty(size + SYNC_BYTES + _HEAD_BYTES, np.uint8)
            got = _read_into(self._fd, buffer, position + head_bytes)
            if got < size + SYNC_BYTES:
                raise TruncatedData(f"{where}: the file is cut: {size + SYNC_BYTES - got} of the block's bytes are missing")
            view = memoryview(buffer)  # type: ignore[arg-type]  # numpy arrays are buffers; its stubs say so from 3.12 on
            if view[size : size + SYNC_BYTES] != self.header.sync:
                raise CorruptData(f"{where}: no sync marker at its end; its bytes were changed, or its size was")
            payload = decompress(self.header.codec, view[:size], where)
            records = self.codec.decode_many(payload, count, where)
            next_offset = position + head_bytes + size + SYNC_BYTES
            yield Block(index=index, offset=position, next_offset=next_offset, records=records)
            head = bytes(view[size + SYNC_BYTES : got])
            position, index = next_offset, index + 1

    def holds_sync_after(self, offset: int) -> bool:
        """Whether a sync marker stands anywhere behind byte `offset`."""
        step, overlap = 16 << 20, SYNC_BYTES - 1
        return any(self.header.sync in os.pread(self._fd, step + overlap, start) for start in range(offset, self.nbytes, step))

    def _block_head(self, head: bytes, where: str) -> tuple[int, int, int]:
        try:
            count, position = decode_long(head, 0)
            size, position = decode_long(head, position)
        except IndexError as error:
            raise TruncatedData(f"{where}: the file is cut inside the block's head") from error
        except ValueError as error:
            raise CorruptData(f"{where}: the block's head is broken: {error}") from error
        if not 0 < count <= max(size, 1) or not 0 <= size <= MAX_BLOCK_BYTES:
            raise CorruptData(f"{where}: the block's head is broken: {count} records in {size} bytes")
        if self.header.codec == "null" and size > self.nbytes:
            raise TruncatedData(f"{where}: the file is cut: the block has {size} bytes, the whole file {self.nbytes}")
        return count, size, position


def _read_header(descriptor: int) -> bytes:
    size = min(os.fstat(descriptor).st_size, 1 << 16)
    start = os.pread(descriptor, size, 0)
    # A schema of many keys may be long; few are, so little is read first.
    while len(start) < MAX_HEADER_BYTES and not _holds_header(start):
        more = os.pread(descriptor, len(start), len(start))
        if not more:
            break
        start += more
    return start


def _holds_header(start: bytes) -> bool:
    try:
        decode_header(start, "")
    except CorruptData:
        return not start.startswith(b"Obj")
    return True


def _read_into(descriptor: int, buffer: np.ndarray[tuple[int], np.dtype[np.uint8]], offset: int) -> int:
    got = 0
    while got < len(buffer):
        count = os.preadv(descriptor, [buffer[got:].data], offset + got)
        if count == 0:
            break
        got += count
    return got
