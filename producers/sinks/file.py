"""Records -> an Avro container file, one record a block; an interrupted file is continued."""

from __future__ import annotations

import os
import stat
from collections import deque
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from pathlib import Path
from typing import Any

from tutelage.producers.sinks.base import Sink
from tutelage.producers.stages.worker import Worker
from tutelage.schemas.arguments import check_flag
from tutelage.schemas.codec import Encoded
from tutelage.schemas.container_format import CodecName, Header, check_codec
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.container_writer import (
    ContainerWriter,
    finished_path,
    partial_path,
    symlink_error,
)
from tutelage.schemas.errors import (
    ConfigurationError,
    CorruptData,
    DataError,
    RecordTooLarge,
    SinkExists,
    TransportError,
    TruncatedData,
    TutelageError,
)
from tutelage.schemas.limits import DEFAULT_LIMITS
from tutelage.schemas.record import Description, RecordHead, Stream
from tutelage.schemas.tail import Tail, tail_from_heads

# Blocks that are handed over and not yet written: enough that the disk never waits, few enough that memory does not pile up.
_BLOCKS_BEHIND = 2
_DISK_TIMEOUT_S = 600.0


class FileSink(Sink):
    """Writes an Avro container file, with one record a block.

    The file lies at `PATH.partial` until its run is complete. An interrupted file is continued:
    what is whole of it is kept.

    Guarantee: `path` exists only when the run is complete, synced and whole. A file that has the
    name already is kept unless `overwrite`.

    Args:
        path: The file to write. A relative path is fixed now; a later `os.chdir` does not move it.
            A symbolic link stands for the file it points to. The name must not end in `.partial`.
        codec: How blocks are compressed: `"null"` (not at all, the fastest), `"deflate"` or
            `"zstandard"`.
        overwrite: Replace a file that is there, finished or not, when the new one is complete.

    Raises:
        ConfigurationError: The path names no file, or an argument has the wrong type or value.
    """

    max_record_bytes: int = DEFAULT_LIMITS.record_bytes

    def __init__(
        self, path: str | os.PathLike[str], *, codec: CodecName = "null", overwrite: bool = False
    ) -> None:
        # The path as it was given is for messages; what it names must not change with the working directory.
        self._path = finished_path("path", path)
        self._name = os.fspath(path)
        self._codec = check_codec(codec)
        self._overwrite = check_flag("overwrite", overwrite)
        self._writer: ContainerWriter | None = None
        self._header: Header | None = None
        self._whole_bytes = 0
        self._thread: Worker | None = None
        self._behind: deque[Future[None]] = deque()

    def __repr__(self) -> str:
        return f"FileSink({self._name!r}, codec={self._codec!r})"

    @property
    def name(self) -> str:
        return self._name

    @property
    def label(self) -> str:
        # A file's name need not be text; a teacher's must be.
        return os.fsencode(Path(self._name).stem).decode("utf-8", "backslashreplace")

    def tail(self) -> Tail | None:
        if not os.path.isdir(self._path.parent):
            folder = self._path.parent if os.path.islink(self._name) else Path(self._name).parent
            raise ConfigurationError(f"{self._name}: there is no folder {folder}; make it first")
        if self._overwrite:
            return None
        if os.path.lexists(self._path):
            return _finished(self._path, self._name)
        partial = partial_path(self._path)
        if not _holds_bytes(partial):
            return None
        try:
            reader = ContainerReader(partial)
        except DataError as error:
            raise SinkExists(
                f"{error}; it cannot be continued: remove it, or overwrite it (--overwrite)"
            ) from error
        with reader:
            last, self._whole_bytes = _whole_prefix(reader)
            self._header = reader.header
            # A file holds the records of all partitions in order, as one partition would.
            tail, _ = tail_from_heads(reader.stream, reader.description, [last])
            return replace(tail, finished=False)

    def open(self, stream: Stream, description: Description) -> None:
        if self._header is not None:
            self._writer = ContainerWriter.resume(
                self._path, self._header, self._whole_bytes, replace=self._overwrite
            )
        elif self._writer is None:
            self._writer = ContainerWriter.create(
                self._path, stream, description, self._codec, replace=self._overwrite
            )

    def pack(self, encoded: Encoded) -> list[Any]:
        assert self._writer is not None, "open comes before pack"
        if encoded.nbytes > self.max_record_bytes:
            raise RecordTooLarge(self._too_large(encoded))
        return self._writer.pack(encoded)

    def _too_large(self, encoded: Encoded) -> str:
        head, most = encoded.head, self.max_record_bytes
        said = f"{self._name}, {head}: its {encoded.nbytes:,} bytes are more than the {most:,} that a block may have; "
        fitting = head.rows * most // encoded.nbytes
        smaller = 'send floats in fewer bytes (such as wire="float16"), or leave keys out'
        if fitting < 1:
            return f"{said}one row alone is too large, so rows_per_record=1 does not fit either: {smaller}"
        return f"{said}rows_per_record={fitting} would fit; or {smaller}"

    def write(self, head: RecordHead, packed: list[Any]) -> None:
        assert self._writer is not None, "open comes before write"
        # The disk takes its time; meanwhile whoever calls prepares what comes next.
        while len(self._behind) >= _BLOCKS_BEHIND:
            self._written(self._behind.popleft())
        self._thread = self._thread or Worker("tutelage-write")
        self._behind.append(self._thread.submit(self._writer.append, packed))

    def settle(self) -> None:
        while self._behind:
            self._written(self._behind.popleft())

    def poll(self) -> None:
        while self._behind and self._behind[0].done():
            self._written(self._behind.popleft())

    def _written(self, block: Future[None]) -> None:
        """Wait for a block; raises what writing it raised."""
        try:
            block.result(_DISK_TIMEOUT_S)
        except FutureTimeout as error:
            raise TransportError(
                f"{partial_path(self._path)}: the disk took nothing for {_DISK_TIMEOUT_S:.0f} s"
            ) from error

    def finish(self) -> None:
        assert self._writer is not None, "open comes before finish"
        self.settle()
        if self._thread is not None:
            self._thread.close()
            self._thread = None
        self._writer.finish()

    def close(self) -> None:
        if self._thread is not None:
            self._thread.close()
            wait(self._behind, timeout=_DISK_TIMEOUT_S)
            self._behind.clear()
            self._thread = None
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _holds_bytes(path: Path) -> bool:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be looked at: {error.strerror}") from error
    if stat.S_ISLNK(found.st_mode):
        raise symlink_error(path)
    return found.st_size > 0


def _finished(path: Path, name: str) -> Tail:
    try:
        with ContainerReader(path) as reader:
            stream, description = reader.stream, reader.description
    except TutelageError as error:
        raise SinkExists(
            f"{name} exists; choose another name, or overwrite it (--overwrite)"
        ) from error
    return Tail(
        stream=stream,
        description=description,
        pass_index=stream.passes,
        sequence=0,
        generation=0,
        complete=True,
        finished=True,
    )


def _whole_prefix(reader: ContainerReader) -> tuple[list[RecordHead], int]:
    """The head of the last whole record, if any, and the bytes up to its end.

    What an interrupted writer left half written is cut off when writing goes on. Damage with blocks behind it is something else,
    and nothing of it is thrown away.
    """
    last: list[RecordHead] = []
    missing = (0, 0)
    whole_bytes = reader.header.nbytes
    try:
        for block in reader.stored_blocks():
            for record in block.each():
                if (record.head.pass_index, record.head.sequence) != missing:
                    raise SinkExists(
                        f"{reader.name}, block {block.index} at byte {block.offset}: {record.head} follows where record {missing[1]} of pass "
                        f"{missing[0]} must; it cannot be continued: remove it, or overwrite it (--overwrite)"
                    )
                missing = (
                    (missing[0] + 1, 0)
                    if record.head.end is not None
                    else (missing[0], missing[1] + 1)
                )
                head = record.head
            last = [head]
            whole_bytes = block.next_offset
    except TruncatedData:
        pass
    except CorruptData as error:
        if reader.holds_sync_after(whole_bytes):
            raise SinkExists(
                f"{error}; blocks follow the damage, so it is not continued: move it away, or use --overwrite"
            ) from error
    return last, whole_bytes
