"""Records -> an Avro container file: written to NAME.partial, synced and renamed to NAME at the end.

What is on disk is always a valid container up to its last whole block. An interrupted file is continued: blocks that are not
whole are cut off, and writing goes on behind the last whole one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tutelage.schemas.codec import Encoded
from tutelage.schemas.container_format import MAX_BUFFERS, Header, checked_codec, compress, encode_header, header_bytes
from tutelage.schemas.errors import SinkExists, TransportError
from tutelage.schemas.headers import CHECKSUM_KEY, identity_checksum, stream_headers
from tutelage.schemas.knowledge_schema import schema_of
from tutelage.schemas.record import Description, Stream
from tutelage.schemas.varint import encode_long


def partial_path(path: Path) -> Path:
    """Where a file lies while it is written."""
    return path.with_name(path.name + ".partial")


class ContainerWriter:
    """Writes one file. `pack` may be called in any thread; the other methods belong to one.

    Guarantee: NAME exists only when everything was written and synced; NAME.partial is readable up to its last whole block.
    """

    def __init__(self, path: Path, descriptor: int, header: Header) -> None:
        self.path = path
        self._header = header
        self._fd = descriptor
        self._whole_bytes = 0
        self._failed: TransportError | None = None

    @classmethod
    def create(cls, path: Path, stream: Stream, description: Description, codec: str = "null") -> ContainerWriter:
        """Begin NAME.partial. SinkExists if another process is writing it."""
        fields = {
            "avro.schema": schema_of(description).encode(),
            "avro.codec": checked_codec(codec).encode(),
            **dict(stream_headers(stream, description)),
            CHECKSUM_KEY: identity_checksum(stream, description),
        }
        header = encode_header(fields)
        writer = cls(path, _open_locked(path), header)
        try:
            os.ftruncate(writer._fd, 0)
            writer._write([header_bytes(header)])
        except BaseException:
            writer.close()
            raise
        return writer

    @classmethod
    def resume(cls, path: Path, header: Header, whole_bytes: int) -> ContainerWriter:
        """Go on with NAME.partial behind its first `whole_bytes`; what lies behind them is cut off."""
        writer = cls(path, _open_locked(path), header)
        os.ftruncate(writer._fd, whole_bytes)
        os.lseek(writer._fd, whole_bytes, os.SEEK_SET)
        writer._whole_bytes = whole_bytes
        return writer

    def pack(self, encoded: Encoded) -> list[Any]:
        """The block of one record, as buffers; compression happens here, in the calling thread."""
        codec = self._header.codec
        if codec == "null":
            return [encode_long(1) + encode_long(encoded.nbytes), *encoded.buffers, self._header.sync]
        payload = [piece for piece in compress(codec, encoded.buffers) if piece]
        return [encode_long(1) + encode_long(sum(map(len, payload))), *payload, self._header.sync]

    def append(self, block: Sequence[Any]) -> None:
        """Write a packed block. TransportError, with the file's name, if the disk is full or fails; and again for any block after that.

        Of a block that failed nothing stays in the file: no block may ever stand behind one that is missing.
        """
        if self._failed is not None:
            raise self._failed
        self._write(block)

    def finish(self) -> None:
        """Sync, and give the file its name."""
        try:
            os.fsync(self._fd)
            os.replace(partial_path(self.path), self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise _failed(self.path, error) from error
        finally:
            self.close()

    def sync(self) -> None:
        """Have the disk keep what was written so far."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise _failed(self.path, error) from error

    def close(self) -> None:
        """Leave the file as it is: partial unless finished. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, buffers: Sequence[Any]) -> None:
        try:
            for first in range(0, len(buffers), MAX_BUFFERS):
                pending = [memoryview(buffer) for buffer in buffers[first : first + MAX_BUFFERS]]
                while pending:
                    written = os.writev(self._fd, pending)
                    while pending and written >= pending[0].nbytes:
                        written -= pending.pop(0).nbytes
                    if written:
                        pending[0] = pending[0][written:]
        except OSError as error:
            self._failed = _failed(self.path, error)
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._whole_bytes)
            raise self._failed from error
        self._whole_bytes += sum(memoryview(buffer).nbytes for buffer in buffers)


def _open_locked(path: Path) -> int:
    partial = partial_path(path)
    try:
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _failed(path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise SinkExists(f"{partial} is being written by another process; end it, or write elsewhere") from error
    return descriptor


def _failed(path: Path, error: OSError) -> TransportError:
    return TransportError(f"{partial_path(path)} cannot be written: {error.strerror}; what was written so far is kept there")
