"""An Avro container file -> its blocks, up to its end or to an error that names the damaged place.

Reads every valid container with a knowledge schema: any number of records per block, codec null,
deflate or zstandard. `stored_blocks` goes from block to block by their heads alone;
`stored_block.py` reads what a block holds. Knows nothing of the order of records.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tutelage.schemas.arguments import absolute_path
from tutelage.schemas.codec import Codec
from tutelage.schemas.container_format import (
    MAX_BUFFERS,
    MAX_HEADER_BYTES,
    SYNC_BYTES,
    decode_header,
)
from tutelage.schemas.disk import open_to_read
from tutelage.schemas.errors import ConfigurationError, CorruptData, TruncatedData
from tutelage.schemas.headers import (
    CHECKSUM_KEY,
    HEADER_PREFIX,
    check_format,
    header_checksum,
    stream_from_headers,
)
from tutelage.schemas.knowledge_schema import description_from_schema
from tutelage.schemas.limits import DEFAULT_LIMITS, Limits
from tutelage.schemas.record import Record
from tutelage.schemas.stored_block import StoredBlock
from tutelage.schemas.varint import decode_long

# The first read of a block: its head, and enough of the record in it to know the record's layout.
_PEEK_BYTES = 256
# One read gets many blocks, where blocks are small.
_WINDOW_BYTES = 256 << 10
_SMALL_BLOCK_BYTES = 32 << 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One block, decoded.

    Args:
        index: Its number, counted from where reading began.
        offset: The byte of the file where it begins.
        next_offset: The byte where the next block begins.
        records: Its records.
    """

    index: int
    offset: int
    next_offset: int
    records: list[Record] = field(repr=False)


class ContainerReader:
    """Reads one file. Close it, or use it in a `with`; reading its blocks after that is an error.

    Guarantee: yields exactly the records that were written, in order, and then ends, or raises an
    error that names file, block and byte.

    Args:
        path: The file.
        verify: Whether to compare checksums.
        limits: Limits on what is read.
        name: What messages call the file; unless given, the path as it was given.

    Raises:
        ConfigurationError: It cannot be opened, or is not a regular file.
        CorruptData: Its header is damaged.
        SchemaError: Its schema is not a knowledge schema, or its format has another version.
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
        #: What messages call the file.
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
                # Before the schema, which a newer version of the format may have changed.
                check_format(self.header.metadata, name)
            self.description = description_from_schema(schema, name, limits)
            self.stream = stream_from_headers(self.header.metadata, name, limits)
            if self.header.metadata.get(CHECKSUM_KEY) != header_checksum(
                self.stream, self.description
            ):
                raise CorruptData(
                    f"{name}: its header fails its checksum; its bytes were changed after the "
                    "teacher wrote them"
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
        """Close the file. May be called twice."""
        descriptor, self._fd = self._fd, -1
        if descriptor >= 0:
            os.close(descriptor)

    @property
    def nbytes(self) -> int:
        """The current size of the file."""
        if self._fd < 0:
            raise ConfigurationError(f"{self.name}: the file was closed while it was read")
        return os.fstat(self._fd).st_size

    def blocks(self, offset: int | None = None) -> Iterator[Block]:
        """Yield the decoded blocks up to the end of the file.

        Args:
            offset: The byte where the first of them begins; None begins with the file's first.

        Raises:
            TruncatedData: The file ends inside a block.
            CorruptData: A block is damaged.
        """
        for index, stored in enumerate(self.stored_blocks(offset)):
            yield Block(
                index=index,
                offset=stored.offset,
                next_offset=stored.next_offset,
                records=stored.records(),
            )

    def stored_blocks(self, offset: int | None = None) -> Iterator[StoredBlock]:
        """Yield the blocks up to the end of the file, with only their heads read and checked.

        Args:
            offset: The byte where the first of them begins; None begins with the file's first.

        Raises:
            TruncatedData: The file ends inside a block.
            CorruptData: A block's head is damaged.
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
                known_bytes = self.nbytes  # The file may still be growing.
                if next_offset > known_bytes:
                    missing = next_offset - known_bytes
                    raise TruncatedData(
                        f"{where}: the file is cut: {missing} of the block's bytes are missing"
                    )
            yield StoredBlock(
                self,
                index=index,
                offset=position,
                next_offset=next_offset,
                count=count,
                payload_at=position + head_bytes,
                peeked=memoryview(window)[start + head_bytes :],
                where=where,
            )
            read_bytes = _WINDOW_BYTES if size < _SMALL_BLOCK_BYTES else _PEEK_BYTES
            position, index = next_offset, index + 1

    def holds_sync_after(self, offset: int) -> bool:
        """Whether the sync marker occurs anywhere after byte `offset`."""
        step, overlap = 16 << 20, SYNC_BYTES - 1
        return any(
            self.header.sync in self._peek(step + overlap, start)
            for start in range(offset, self.nbytes, step)
        )

    def _peek(self, nbytes: int, position: int) -> bytes:
        """Read up to `nbytes` bytes at a position."""
        try:
            return os.pread(self._fd, nbytes, position)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "there is no such position"
            if self._fd < 0:
                raise ConfigurationError(
                    f"{self.name}: the file was closed while it was read"
                ) from error
            raise CorruptData(
                f"{self.name}, byte {position}: it cannot be read: {reason}"
            ) from error

    def read_into(self, buffers: Sequence[Any], offset: int, where: str) -> None:
        """Fill the buffers, one after the other, with the bytes from `offset` on.

        Raises:
            TruncatedData: The file ends before they are full. The message names `where`.
            CorruptData: The disk failed.
            ConfigurationError: The reader was closed.
        """
        if len(buffers) == 1 and self._fd >= 0:
            # Single rows are read so, and come whole. The loop below takes three times as long.
            try:
                if os.preadv(self._fd, buffers, offset) == len(buffers[0]):
                    return
            except OSError:
                pass
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
        """The records, the payload's size and the head's length of the block at `start`."""
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
                f"{where}: the file is cut: the block has {size} bytes, the whole file "
                f"{known_bytes}"
            )
        return count, size, position - start


def _read_header(descriptor: int, name: str) -> bytes:
    try:
        start = os.pread(descriptor, 1 << 16, 0)
        # Most headers are short; the schema of a stream with many keys makes a long one.
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
