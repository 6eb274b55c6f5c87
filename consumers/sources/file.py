"""An Avro container file -> its records, up to where the file is cut or damaged."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from itertools import chain
from pathlib import Path

from tutelage.consumers.position import Position
from tutelage.consumers.sources.base import ConsumedRecord, Source, StreamInfo
from tutelage.schemas.arguments import absolute_path, check_flag
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.container_writer import partial_path
from tutelage.schemas.errors import ConfigurationError, CorruptData, TruncatedData
from tutelage.schemas.limits import DEFAULT_LIMITS, Limits, check_limits
from tutelage.schemas.record import Record
from tutelage.schemas.stored_block import StoredBlock, StoredRecord

# The number of blocks decompressed at once, by as many threads as there are processors, at most
# this many.
_BLOCKS_AT_ONCE = 4
# A block that decompresses to more than this is not decompressed ahead. Records have about 4 MB.
_AHEAD_BYTES = 64 << 20


class FileSource(Source):
    """Reads an Avro container file that a `FileSink`, `tutelage record` or another program wrote.

    Guarantee: the data read equals the data written. If the file is cut or changed, the records
    before that place are read, and then an error names file, block and byte.

    Args:
        path: The file. A relative path is made absolute at once, so a later `os.chdir` does not
            change it.
        verify: Whether to check the checksum of every record.
        limits: How large records, schemas and shapes may be.

    Raises:
        ConfigurationError: An argument has the wrong type or value. When the student starts: the
            file is missing.
    """

    is_random_access = True
    # A file is read faster than it is used: prefetched rows should still be in the cache.
    ahead_bytes = 24 << 20

    def __init__(
        self, path: str | os.PathLike[str], *, verify: bool = True, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self._path = absolute_path("path", path)
        # The path as it was given, for messages.
        self._name = os.fspath(path)
        self._verify = check_flag("verify", verify)
        self._limits = check_limits(limits)
        self._reader: ContainerReader | None = None
        self._pass_rows: dict[int, int] | None = None

    def __repr__(self) -> str:
        return f"FileSource({self._name!r})"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_reader": None}

    @property
    def name(self) -> str:
        return self._name

    @property
    def path(self) -> Path:
        """The file's absolute path."""
        return self._path

    def connect(self) -> None:
        # A missing file is an error at once, not after the wait for another teacher's topic.
        self._check_exists()

    def open(self, timeout_s: float) -> StreamInfo:
        reader = self._open_reader()
        return StreamInfo(
            stream=reader.stream, description=reader.description, schema=reader.schema, partitions=1
        )

    @property
    def verify(self) -> bool:
        """Whether checksums are checked."""
        return self._verify

    @property
    def limits(self) -> Limits:
        """How large records, schemas and shapes may be."""
        return self._limits

    @property
    def skips_records(self) -> bool:  # type: ignore[override]
        return self._open_reader().header.codec == "null"

    def _open_reader(self) -> ContainerReader:
        if self._reader is None:
            self._check_exists()
            self._reader = ContainerReader(
                self._path, verify=self._verify, limits=self._limits, name=self._name
            )
        return self._reader

    def pass_rows(self) -> Mapping[int, int]:
        # Not at the top: random access reads files through this class.
        from tutelage.consumers.random_access.index_file import index_of

        if self._pass_rows is None:
            index = index_of(self._open_reader(), copy(self), keep=False)
            self._pass_rows = {number: end.rows for number, end in enumerate(index.passes)}
        return self._pass_rows

    def _check_exists(self) -> None:
        """Raise ConfigurationError if there is no file."""
        if not os.path.lexists(self._path):
            partial = partial_path(Path(self._name))
            hint = (
                f"; {partial} is there, so its teacher has not finished"
                if os.path.exists(partial_path(self._path))
                else ""
            )
            raise ConfigurationError(f"there is no file {self._name}{hint}")

    def read(self, position: Position) -> Generator[ConsumedRecord | None, None, None]:
        reader = self._open_reader()
        offset = position.offsets[0] if position.offsets and position.offsets[0] >= 0 else None
        last = (
            f"record {position.sequence - 1} of pass {position.pass_index}"
            if position.sequence
            else "its header"
        )
        at = offset
        for block, records in _blocks_in_order(reader, offset):
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
        end = at if at is not None else reader.header.nbytes
        raise TruncatedData(
            f"{self._name} ends at byte {end} after {last}, before the end of the run "
            f"({reader.stream.passes} passes): its teacher was interrupted; start it again to go "
            "on, or `tutelage verify` it"
        )

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = self._pass_rows = None


def _blocks_in_order(
    reader: ContainerReader, offset: int | None
) -> Iterator[tuple[StoredBlock, Iterable[Record | StoredRecord]]]:
    """Yield each block with its records: still in the file if uncompressed, else decoded."""
    if reader.header.codec == "null":
        for block in reader.stored_blocks(offset):
            stored = block.record()
            yield block, [stored] if stored is not None else block.each()
        return
    pending: deque[tuple[StoredBlock, Future[Iterator[Record] | None]]] = deque()
    threads = ThreadPoolExecutor(
        min(_BLOCKS_AT_ONCE, os.cpu_count() or 1), thread_name_prefix="tutelage-unpack"
    )
    try:
        blocks = reader.stored_blocks(offset)
        failed: BaseException | None = None
        while True:
            while len(pending) < _BLOCKS_AT_ONCE and failed is None:
                try:
                    block = next(blocks)
                except StopIteration:
                    break
                except Exception as error:  # raised below, after the blocks before it
                    failed = error
                    break
                pending.append((block, threads.submit(_decompressed_ahead, block)))
            if not pending:
                if failed is not None:
                    raise failed
                return
            block, future = pending.popleft()
            ahead = future.result()
            # The future would keep the block's memory while its records are used.
            del future
            yield block, block.each() if ahead is None else ahead
            del ahead
    finally:
        threads.shutdown(wait=True, cancel_futures=True)


def _decompressed_ahead(block: StoredBlock) -> Iterator[Record] | None:
    """Return a block's records, or None for a block that must be decompressed in its turn.

    That is a large block, because several are decompressed at once, or a broken one.
    """
    try:
        records = block.each(_AHEAD_BYTES)
        first = next(records)
    except CorruptData:
        return None
    return chain((first,), records)
