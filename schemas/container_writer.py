"""Records -> an Avro container file, written to NAME.partial, then synced and renamed to NAME.

The file on disk is always a valid container up to its last whole block. An interrupted file is
continued: an incomplete block is cut off, and writing goes on after the last whole one. Knows
nothing of the order of records.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tutelage.schemas.codec import Encoded
from tutelage.schemas.container_format import (
    MAX_BUFFERS,
    SYNC_BYTES,
    Header,
    check_codec,
    compress,
    encode_header,
    header_bytes,
)
from tutelage.schemas.disk import (
    file_path,
    is_at_path,
    is_foreign,
    lock_file,
    sync_file,
    sync_folder,
)
from tutelage.schemas.errors import ConfigurationError, SinkExists, TransportError
from tutelage.schemas.headers import CHECKSUM_KEY, header_checksum, stream_headers
from tutelage.schemas.knowledge_schema import schema_from_description
from tutelage.schemas.record import Description, Stream
from tutelage.schemas.varint import encode_long

log = logging.getLogger(__name__)

PARTIAL = ".partial"
_MAX_OPEN_ATTEMPTS = 10


def partial_path(path: Path) -> Path:
    """The name of a file while it is being written."""
    return path.with_name(path.name + PARTIAL)


def finished_path(name: str, value: str | os.PathLike[str]) -> Path:
    """The absolute path of a container file to write, with symbolic links followed.

    Raises:
        ConfigurationError: The value is not a path, has the name of an unfinished file, or names
            something other than a regular file.
    """
    path = file_path(name, value)
    # Some file systems ignore case.
    if path.name.lower().endswith(PARTIAL):
        raise ConfigurationError(
            f"{name} {os.fspath(value)!r} ends in {PARTIAL}: {path.name[: -len(PARTIAL)]!r} has "
            "that name while it is written, and its writer would replace this file; choose another "
            "name"
        )
    return path


def symlink_error(partial: Path) -> SinkExists:
    """The error to raise where the name of an unfinished file is a symbolic link."""
    return SinkExists(
        f"{partial} is a symbolic link, through which another file would be written; remove it"
    )


class ContainerWriter:
    """Writes one file. `pack` may be called in any thread; the other methods belong to one.

    Guarantee: NAME exists only after everything was written and synced, and NAME.partial is
    readable up to its last whole block. Only the file written here is renamed to NAME, and without
    `replace` an existing NAME is kept.
    """

    def __init__(
        self, path: Path, descriptor: int, header: Header, *, replace: bool = True
    ) -> None:
        self.path = path
        self._header = header
        self._fd = descriptor
        self._replace = replace
        self._whole_bytes = 0
        self._failed: TransportError | None = None

    @classmethod
    def create(
        cls,
        path: Path,
        stream: Stream,
        description: Description,
        codec: str = "null",
        *,
        replace: bool = True,
    ) -> ContainerWriter:
        """Begin NAME.partial anew.

        Args:
            path: NAME.
            stream: The identity of the run.
            description: What its records hold.
            codec: How blocks are compressed: "null", "deflate" or "zstandard".
            replace: Whether NAME may exist, and is replaced at the end.

        Raises:
            SinkExists: Another process is writing it, or NAME exists and may not be replaced.
            TransportError: It cannot be written.
        """
        path = file_path("path", path)
        fields = {
            "avro.schema": schema_from_description(description).encode(),
            "avro.codec": check_codec(codec).encode(),
            **dict(stream_headers(stream, description)),
            CHECKSUM_KEY: header_checksum(stream, description),
        }
        header = encode_header(fields)
        writer = cls(path, _open_locked(path), header, replace=replace)
        try:
            writer._check_replaceable()
            writer._cut(0)
            writer._write([header_bytes(header)])
        except BaseException:
            writer.close()
            raise
        return writer

    @classmethod
    def resume(
        cls, path: Path, header: Header, whole_bytes: int, *, replace: bool = True
    ) -> ContainerWriter:
        """Continue NAME.partial.

        Args:
            path: NAME.
            header: The header that was read from NAME.partial.
            whole_bytes: The bytes to keep: the header and the whole blocks. The rest is cut off.
            replace: Whether NAME may exist, and is replaced at the end.

        Raises:
            SinkExists: Another process is writing it, it was replaced after it was read, or NAME
                exists and may not be replaced.
            TransportError: It cannot be written.
        """
        path = file_path("path", path)
        writer = cls(path, _open_locked(path), header, replace=replace)
        try:
            writer._check_replaceable()
            writer._check_same_file(whole_bytes)
            writer._cut(whole_bytes)
        except BaseException:
            writer.close()
            raise
        return writer

    def pack(self, encoded: Encoded) -> list[Any]:
        """Make the block of one record, as buffers. Compresses in the calling thread."""
        codec = self._header.codec
        if codec == "null":
            return [
                encode_long(1) + encode_long(encoded.nbytes),
                *encoded.buffers,
                self._header.sync,
            ]
        payload = [piece for piece in compress(codec, encoded.buffers) if piece]
        return [encode_long(1) + encode_long(sum(map(len, payload))), *payload, self._header.sync]

    def append(self, block: Sequence[Any]) -> None:
        """Write a packed block.

        A block that failed leaves nothing in the file, and no later block is written: no block may
        follow one that is missing.

        Raises:
            TransportError: The disk is full or failed, now or at an earlier block.
        """
        if self._failed is not None:
            raise self._failed
        self._write(block)

    def finish(self) -> None:
        """Sync the file, rename it to NAME, and close it.

        Raises:
            SinkExists: NAME has appeared meanwhile and may not be replaced.
            TransportError: The disk failed, or NAME.partial is another file by now. Nothing was
                renamed.
        """
        partial = partial_path(self.path)
        try:
            sync_file(self._fd, partial)
            self._check_replaceable()
            if not is_at_path(self._fd, partial):
                raise TransportError(
                    f"{partial} is not the file that was written here: it was removed, renamed or "
                    f"replaced meanwhile, so nothing was renamed to {self.path.name}; leave the "
                    "file alone while it is written, and write it again"
                )
            os.replace(partial, self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise _write_error(self.path, error) from error
        finally:
            self.close()

    def sync(self) -> None:
        """Sync to disk what was written so far."""
        try:
            sync_file(self._fd, partial_path(self.path))
            sync_folder(self.path.parent)
        except OSError as error:
            raise _write_error(self.path, error) from error

    def close(self) -> None:
        """Close the file; unless finished, it stays NAME.partial. May be called twice."""
        descriptor, self._fd = self._fd, -1
        if descriptor >= 0:
            try:
                os.close(descriptor)
            except OSError as error:
                # A finished file is synced already. Resuming an unfinished one finds what it lacks.
                log.warning("%s: closing it failed (%s)", partial_path(self.path), error.strerror)

    def _check_replaceable(self) -> None:
        """SinkExists if NAME exists and may not be replaced."""
        if not self._replace and os.path.lexists(self.path):
            raise SinkExists(
                f"{self.path} exists, and was not there before; it is kept, and what was written "
                f"stays in {partial_path(self.path)}. Move one of them away"
            )

    def _check_same_file(self, whole_bytes: int) -> None:
        """SinkExists unless the open file is the one whose header was read."""
        try:
            sync = os.pread(self._fd, SYNC_BYTES, self._header.nbytes - SYNC_BYTES)
            is_other = sync != self._header.sync or os.fstat(self._fd).st_size < whole_bytes
        except OSError as error:
            raise _write_error(self.path, error) from error
        if is_other:
            raise SinkExists(
                f"{partial_path(self.path)} was replaced by another file since it was read; start "
                "again to see what it holds"
            )

    def _cut(self, nbytes: int) -> None:
        try:
            os.ftruncate(self._fd, nbytes)
            os.lseek(self._fd, nbytes, os.SEEK_SET)
        except OSError as error:
            raise _write_error(self.path, error) from error
        self._whole_bytes = nbytes

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
            self._failed = _write_error(self.path, error)
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._whole_bytes)
            raise self._failed from error
        self._whole_bytes += sum(memoryview(buffer).nbytes for buffer in buffers)


def _open_locked(path: Path) -> int:
    """Open and lock NAME.partial; try again if its writer renamed it before it was locked."""
    partial = partial_path(path)
    for _ in range(_MAX_OPEN_ATTEMPTS):
        try:
            # Through a symbolic link another file would be written, and the link be renamed.
            descriptor = os.open(
                partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644
            )
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise symlink_error(partial) from error
            raise _write_error(path, error) from error
        try:
            if is_foreign(os.fstat(descriptor), partial):
                raise SinkExists(
                    f"{partial} belongs to another user, who could change what is written to it; "
                    "remove it, or write elsewhere"
                )
            if not lock_file(descriptor, partial):
                raise SinkExists(
                    f"{partial} is being written by another process; end it, or write elsewhere"
                )
            if is_at_path(descriptor, partial):
                return descriptor
        except OSError as error:
            os.close(descriptor)
            raise _write_error(path, error) from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise SinkExists(
        f"{partial} is replaced again and again while it is opened; end the process that does "
        "that, or write elsewhere"
    )


def _write_error(path: Path, error: OSError) -> TransportError:
    return TransportError(
        f"{partial_path(path)} cannot be written: {error.strerror}; what was written so far is "
        "kept there"
    )
