"""An Avro container file -> records, as far as the file is whole."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path

from tutelage.consumers.position import Position
from tutelage.consumers.sources.base import ConsumedRecord, Source, StreamInfo
from tutelage.schemas.arguments import absolute_path, flag
from tutelage.schemas.container_reader import ContainerReader, StoredBlock, StoredRecord
from tutelage.schemas.container_writer import partial_path
from tutelage.schemas.errors import ConfigurationError, CorruptData, TruncatedData
from tutelage.schemas.limits import DEFAULT_LIMITS, Limits, checked_limits
from tutelage.schemas.record import Record

# Blocks that are being unpacked at once, by as many threads as there are processors up to this.
_UNPACKING = 4
# A block that unpacks to more than this is not unpacked ahead of its turn. Records have about 4 MB.
_AHEAD_BYTES = 64 << 20


class FileSource(Source):
    """Reads an Avro container file, written by a `FileSink`, recorded from a topic, or by others.

    Guarantee: what is read is what was written. Where the file is cut or changed, an error names
    file, block and byte, behind the records before it.

    Args:
        path: The file. A relative path is fixed now; a later `os.chdir` does not move it.
        verify: Whether to check the checksum of every record.
        limits: How large records, schemas and shapes may be.

    Raises:
        ConfigurationError: An argument has the wrong type or value. When the student starts: the
            file is missing.
    """

    # A file is read faster than it is used: what is ready should still be in the processor's cache.
    ahead_bytes = 24 << 20

    def __init__(
        self, path: str | os.PathLike[str], *, verify: bool = True, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        # The path as it was given is for messages; what it names must not change with the working directory.
        self._path = absolute_path("path", path)
        self._name = os.fspath(path)
        self._verify = flag("verify", verify)
        self._limits = checked_limits(limits)
        self._reader: ContainerReader | None = None

    def __repr__(self) -> str:
        return f"FileSource({self._name!r})"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_reader": None}

    @property
    def name(self) -> str:
        return self._name

    @property
    def path(self) -> Path:
        """Where the file lies: an absolute path."""
        return self._path

    def connect(self) -> None:
        # A file that is not there is said at once, not after a wait for another teacher's topic.
        self._refuse_missing()

    def open(self, timeout_s: float) -> StreamInfo:
        reader = self._opened()
        return StreamInfo(
            stream=reader.stream, description=reader.description, schema=reader.schema, partitions=1
        )

    def _opened(self) -> ContainerReader:
        if self._reader is None:
            self._refuse_missing()
            self._reader = ContainerReader(
                self._path, verify=self._verify, limits=self._limits, name=self._name
            )
        return self._reader

    def _refuse_missing(self) -> None:
        if not os.path.lexists(self._path):
            partial = partial_path(Path(self._name))
            hint = (
                f"; {partial} is there, so its teacher has not finished"
                if os.path.exists(partial_path(self._path))
                else ""
            )
            raise ConfigurationError(f"there is no file {self._name}{hint}")

    def read(self, position: Position) -> Generator[ConsumedRecord | None, None, None]:
        reader = self._opened()
        offset = position.offsets[0] if position.offsets and position.offsets[0] >= 0 else None
        last = (
            f"record {position.sequence - 1} of pass {position.pass_index}"
            if position.sequence
            else "its header"
        )
        at = offset
        for block, records in _in_order(reader, offset):
            for index, record in enumerate(records, start=1):
                final = index == block.count
                last = str(record.head)
                yield ConsumedRecord(
                    partition=0,
                    offset=block.offset,
                    next_offset=block.next_offset if final else block.offset,
                    record=record,
                    where=block.where,
                )
            at = block.next_offset
        raise TruncatedData(
            f"{self._name} ends at byte {at if at is not None else reader.header.nbytes} after {last}, before the end of the run "
            f"({reader.stream.passes} passes): its teacher was interrupted; start it again to go on, or `tutelage verify` it"
        )

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _in_order(
    reader: ContainerReader, offset: int | None
) -> Iterator[tuple[StoredBlock, Iterable[Record | StoredRecord]]]:
    """Each block and its records: still in the file where they can be read straight to their place, else read and checked."""
    if reader.header.codec == "null":
        for block in reader.stored_blocks(offset):
            stored = block.record()
            yield block, [stored] if stored is not None else block.each()
        return
    unpacking: deque[tuple[StoredBlock, Future[Iterator[Record] | None]]] = deque()
    threads = ThreadPoolExecutor(
        min(_UNPACKING, os.cpu_count() or 1), thread_name_prefix="tutelage-unpack"
    )
    try:
        blocks = reader.stored_blocks(offset)
        failed: BaseException | None = None
        while True:
            while len(unpacking) < _UNPACKING and failed is None:
                try:
                    block = next(blocks)
                except StopIteration:
                    break
                except Exception as error:  # behind the blocks that come before
                    failed = error
                    break
                unpacking.append((block, threads.submit(_unpacked_ahead, block)))
            if not unpacking:
                if failed is not None:
                    raise failed
                return
            block, future = unpacking.popleft()
            ahead = future.result()
            # The future would keep the block's memory while its records are used.
            del future
            yield block, block.each() if ahead is None else ahead
            del ahead
    finally:
        threads.shutdown(wait=True, cancel_futures=True)


def _unpacked_ahead(block: StoredBlock) -> Iterator[Record] | None:
    """A block's records, the first of them decoded already; None if the block is to be unpacked when it is its turn.

    That is so where it is large, since several are unpacked at once, and where it is broken.
    """
    try:
        records = block.each(_AHEAD_BYTES)
        first = next(records)
    except CorruptData:
        return None
    return chain((first,), records)
