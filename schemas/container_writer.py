"""Records -> an Avro container file: written to NAME.partial, synced and renamed to NAME at the end.

What is on disk is always a valid container up to its last whole block. An interrupted file is continued: blocks that are not
whole are cut off, and writing goes on behind the last whole one.
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
    checked_codec,
    compress,
    encode_header,
    header_bytes,
)
from tutelage.schemas.disk import file_path, is_foreign, is_named, locked, sync_file, sync_folder
from tutelage.schemas.errors import ConfigurationError, SinkExists, TransportError
from tutelage.schemas.headers import CHECKSUM_KEY, identity_checksum, stream_headers
from tutelage.schemas.knowledge_schema import schema_of
from tutelage.schemas.record import Description, Stream
from tutelage.schemas.varint import encode_long

log = logging.getLogger(__name__)

PARTIAL = ".partial"
_OPENED_AT_MOST = 10


def partial_path(path: Path) -> Path:
    """Where a file lies while it is written."""
    return path.with_name(path.name + PARTIAL)


def finished_path(name: str, value: str | os.PathLike[str]) -> Path:
    """The absolute path of a container file to write, with symbolic links followed.

    Raises:
        ConfigurationError: The value is no path, names an unfinished file, or something there that is no file.
    """
    path = file_path(name, value)
    # Some file systems do not tell upper case from lower.
    if path.name.lower().endswith(PARTIAL):
        raise ConfigurationError(
            f"{name} {os.fspath(value)!r} ends in {PARTIAL}, which is where {path.name[: -len(PARTIAL)]!r} lies while it is written, and where the "
            "writer of that file would replace it; choose another name"
        )
    return path


def linked(partial: Path) -> SinkExists:
    """The error for a symbolic link where an unfinished file is to lie."""
    return SinkExists(
        f"{partial} is a symbolic link, through which another file would be written; remove it"
    )


class ContainerWriter:
    """Writes one file. `pack` may be called in any thread; the other methods belong to one.

    Guarantee: NAME exists only when everything was written and synced; NAME.partial is readable up to its last whole block. No file
    but the one that was written gets the name, and without `replace` none that has it loses it.
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
        """Begin NAME.partial.

        Raises:
            SinkExists: Another process is writing it, or NAME exists and may not be replaced.
            TransportError: It cannot be written.
        """
        path = file_path("path", path)
        fields = {
            "avro.schema": schema_of(description).encode(),
            "avro.codec": checked_codec(codec).encode(),
            **dict(stream_headers(stream, description)),
            CHECKSUM_KEY: identity_checksum(stream, description),
        }
        header = encode_header(fields)
        writer = cls(path, _open_locked(path), header, replace=replace)
        try:
            writer._refuse_taken()
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
        """Go on with NAME.partial behind its first `whole_bytes`; what lies behind them is cut off.

        Raises:
            SinkExists: Another process is writing it, it is not the file that was read any more, or NAME exists and may not be replaced.
            TransportError: It cannot be written.
        """
        path = file_path("path", path)
        writer = cls(path, _open_locked(path), header, replace=replace)
        try:
            writer._refuse_taken()
            writer._refuse_other(whole_bytes)
            writer._cut(whole_bytes)
        except BaseException:
            writer.close()
            raise
        return writer

    def pack(self, encoded: Encoded) -> list[Any]:
        """The block of one record, as buffers; compression happens here, in the calling thread."""
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
        """Write a packed block. TransportError, with the file's name, if the disk is full or fails; and again for any block after that.

        Of a block that failed nothing stays in the file: no block may ever stand behind one that is missing.
        """
        if self._failed is not None:
            raise self._failed
        self._write(block)

    def finish(self) -> None:
        """Sync, and give the file its name.

        Raises:
            SinkExists: NAME has appeared meanwhile and may not be replaced.
            TransportError: The disk failed, or another file lies at NAME.partial; nothing is renamed then.
        """
        partial = partial_path(self.path)
        try:
            sync_file(self._fd, partial)
            self._refuse_taken()
            if not is_named(self._fd, partial):
                raise TransportError(
                    f"{partial} is not the file that was written here: it was removed, renamed or replaced meanwhile, so nothing gets the name "
                    f"{self.path.name}; leave the file alone while it is written, and write it again"
                )
            os.replace(partial, self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise _failed(self.path, error) from error
        finally:
            self.close()

    def sync(self) -> None:
        """Have the disk keep what was written so far."""
        try:
            sync_file(self._fd, partial_path(self.path))
            sync_folder(self.path.parent)
        except OSError as error:
            raise _failed(self.path, error) from error

    def close(self) -> None:
        """Leave the file as it is: partial unless finished. May be called twice."""
        descriptor, self._fd = self._fd, -1
        if descriptor >= 0:
            try:
                os.close(descriptor)
            except OSError as error:
                # A finished file was synced before; what is missing of an unfinished one is found when it is continued.
                log.warning("%s: closing it failed (%s)", partial_path(self.path), error.strerror)

    def _refuse_taken(self) -> None:
        if not self._replace and os.path.lexists(self.path):
            raise SinkExists(
                f"{self.path} exists, and was not there before; it is kept, and what was written stays in {partial_path(self.path)}. Move one "
                "of them away"
            )

    def _refuse_other(self, whole_bytes: int) -> None:
        """SinkExists unless the open file is the one whose header was read."""
        try:
            sync = os.pread(self._fd, SYNC_BYTES, self._header.nbytes - SYNC_BYTES)
            is_other = sync != self._header.sync or os.fstat(self._fd).st_size < whole_bytes
        except OSError as error:
            raise _failed(self.path, error) from error
        if is_other:
            raise SinkExists(
                f"{partial_path(self.path)} was replaced by another file since it was read; start again to see what it holds"
            )

    def _cut(self, nbytes: int) -> None:
        try:
            os.ftruncate(self._fd, nbytes)
            os.lseek(self._fd, nbytes, os.SEEK_SET)
        except OSError as error:
            raise _failed(self.path, error) from error
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
            self._failed = _failed(self.path, error)
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._whole_bytes)
            raise self._failed from error
        self._whole_bytes += sum(memoryview(buffer).nbytes for buffer in buffers)


def _open_locked(path: Path) -> int:
    """NAME.partial, open and locked.

    A file that was renamed or removed before it could be locked is another writer's finished one: it is let go, and the name opened again.
    """
    partial = partial_path(path)
    for _ in range(_OPENED_AT_MOST):
        try:
            # Through a symbolic link another file would be written, and the link would get the name.
            descriptor = os.open(
                partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644
            )
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise linked(partial) from error
            raise _failed(path, error) from error
        try:
            if is_foreign(os.fstat(descriptor), partial):
                raise SinkExists(
                    f"{partial} belongs to another user, who could change what is written to it; remove it, or write elsewhere"
                )
            if not locked(descriptor, partial):
                raise SinkExists(
                    f"{partial} is being written by another process; end it, or write elsewhere"
                )
            if is_named(descriptor, partial):
                return descriptor
        except OSError as error:
            os.close(descriptor)
            raise _failed(path, error) from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise SinkExists(
        f"{partial} is replaced again and again while it is opened; end whoever does that, or write elsewhere"
    )


def _failed(path: Path, error: OSError) -> TransportError:
    return TransportError(
        f"{partial_path(path)} cannot be written: {error.strerror}; what was written so far is kept there"
    )
