"""Records -> an Avro container file, one record per block. An interrupted file can be continued."""

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

# How many blocks may wait to be written: enough that the disk is never idle, and few enough to
# bound the memory.
_MAX_QUEUED_BLOCKS = 2
_DISK_TIMEOUT_S = 600.0


class FileSink(Sink):
    """Writes an Avro container file, with one record per block.

    The file is at `PATH.partial` until its run is complete. An interrupted file is continued: its
    complete records are kept.

    Guarantee: `path` exists only when the run is complete, synced and undamaged. An existing file
    of that name is kept unless `overwrite` is true.

    Args:
        path: The file to write. A relative path is resolved now; a later `os.chdir` does not change
            it. A symbolic link stands for its target. The name must not end in `.partial`.
        codec: How blocks are compressed: `"null"` (not at all, the fastest), `"deflate"` or
            `"zstandard"`.
        overwrite: Whether to replace an existing file, finished or not, once the new one is
            complete.

    Raises:
        ConfigurationError: The path cannot name a file, or an argument has the wrong type or value.
    """

    max_record_bytes: int = DEFAULT_LIMITS.record_bytes

    def __init__(
        self, path: str | os.PathLike[str], *, codec: CodecName = "null", overwrite: bool = False
    ) -> None:
        # Absolute, so that it does not depend on the working directory. Messages show `path` as
        # given.
        self._path = finished_path("path", path)
        self._name = os.fspath(path)
        self._codec = check_codec(codec)
        self._overwrite = check_flag("overwrite", overwrite)
        self._writer: ContainerWriter | None = None
        self._header: Header | None = None
        self._whole_bytes = 0
        self._thread: Worker | None = None
        self._queued: deque[Future[None]] = deque()

    def __repr__(self) -> str:
        return f"FileSink({self._name!r}, codec={self._codec!r})"

    @property
    def name(self) -> str:
        return self._name

    @property
    def label(self) -> str:
        # A file name may hold bytes that are not text; a teacher's name must be text.
        return os.fsencode(Path(self._name).stem).decode("utf-8", "backslashreplace")

    def tail(self) -> Tail | None:
        if not os.path.isdir(self._path.parent):
            folder = self._path.parent if os.path.islink(self._name) else Path(self._name).parent
            raise ConfigurationError(f"{self._name}: there is no folder {folder}; make it first")
        if self._overwrite:
            return None
        if os.path.lexists(self._path):
            return _finished_tail(self._path, self._name)
        partial = partial_path(self._path)
        if not _has_content(partial):
            return None
        try:
            reader = ContainerReader(partial)
        except DataError as error:
            raise SinkExists(
                f"{error}; it cannot be continued: remove it, or overwrite it (--overwrite)"
            ) from error
        with reader:
            last, self._whole_bytes = _complete_prefix(reader)
            self._header = reader.header
            # A file holds the records of all partitions in order, so it counts as one partition.
            tail, _ = tail_from_heads(reader.stream, reader.description, [last])
            return replace(tail, finished=False)

    def begin_run(self, run_id: str | None) -> None:
        raise ConfigurationError(
            f"{self.name} is a file, and a file holds one run; write the new run to another file, "
            "or replace this one with overwrite=True (--overwrite)"
        )

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
            raise self._too_large(encoded)
        return self._writer.pack(encoded)

    def _too_large(self, encoded: Encoded) -> RecordTooLarge:
        head, most = encoded.head, self.max_record_bytes
        rows_that_fit = head.rows * most // encoded.nbytes
        advice = 'send floats in fewer bytes (such as wire="float16"), or leave keys out'
        if rows_that_fit < 1:
            advice = (
                "one row alone is too large, so rows_per_record=1 does not fit either: " + advice
            )
        else:
            advice = f"rows_per_record={rows_that_fit} would fit; or {advice}"
        return RecordTooLarge(
            f"{self._name}, {head}: its {encoded.nbytes:,} bytes are more than the {most:,} that a "
            f"block may have; {advice}"
        )

    def write(self, head: RecordHead, packed: list[Any]) -> None:
        assert self._writer is not None, "open comes before write"
        # Blocks are written in a thread of their own, so that the caller prepares the next one
        # meanwhile.
        while len(self._queued) >= _MAX_QUEUED_BLOCKS:
            self._await_block(self._queued.popleft())
        self._thread = self._thread or Worker("tutelage-write")
        self._queued.append(self._thread.submit(self._writer.append, packed))

    def settle(self) -> None:
        while self._queued:
            self._await_block(self._queued.popleft())

    def poll(self) -> None:
        while self._queued and self._queued[0].done():
            self._await_block(self._queued.popleft())

    def _await_block(self, block: Future[None]) -> None:
        """Wait until a block is written. Raises what writing it raised."""
        try:
            block.result(_DISK_TIMEOUT_S)
        except FutureTimeout as error:
            raise TransportError(
                f"{partial_path(self._path)}: the disk wrote nothing for {_DISK_TIMEOUT_S:.0f} s"
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
            wait(self._queued, timeout=_DISK_TIMEOUT_S)
            self._queued.clear()
            self._thread = None
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _has_content(path: Path) -> bool:
    """Whether the file exists and is not empty. Raises ConfigurationError for a symbolic link."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be inspected: {error.strerror}") from error
    if stat.S_ISLNK(found.st_mode):
        raise symlink_error(path)
    return found.st_size > 0


def _finished_tail(path: Path, name: str) -> Tail:
    """The tail of a finished file. Raises SinkExists if it is not one of ours."""
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


def _complete_prefix(reader: ContainerReader) -> tuple[list[RecordHead], int]:
    """Return the head of the last complete record, if any, and the offset of its end in bytes.

    A block that an interrupted writer left incomplete is cut off when writing continues. Damage
    with blocks behind it is an error instead, so that nothing is thrown away.
    """
    last: list[RecordHead] = []
    missing = (0, 0)
    whole_bytes = reader.header.nbytes
    try:
        for block in reader.stored_blocks():
            for record in block.each():
                if (record.head.pass_index, record.head.sequence) != missing:
                    raise SinkExists(
                        f"{reader.name}, block {block.index} at byte {block.offset}: {record.head} "
                        f"follows where record {missing[1]} of pass {missing[0]} must; it cannot "
                        "be continued: remove it, or overwrite it (--overwrite)"
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
                f"{error}; blocks follow the damage, so it is not continued: move it away, or use "
                "--overwrite"
            ) from error
    return last, whole_bytes
