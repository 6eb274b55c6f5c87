"""Rows of one file, in any order -> their place in a batch.

Uncompressed rows are read with one `pread` per key; blocks that are compressed or hold several
records are decoded whole, and the last ones are kept. Any thread and any process may read: a forked
or spawned one opens the file anew.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from tutelage.consumers.random_access.batch_rows import BatchRows
from tutelage.consumers.random_access.index_file import index_of
from tutelage.consumers.random_access.record_index import RecordIndex
from tutelage.consumers.random_access.record_places import RecordPlaces, locate_rows
from tutelage.consumers.sources.base import StreamInfo
from tutelage.consumers.sources.file import FileSource
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.errors import ConfigurationError, CorruptData
from tutelage.schemas.limits import Limits
from tutelage.schemas.record import Ragged, Record, RecordHead
from tutelage.schemas.stored_block import StoredBlock
from tutelage.schemas.tensor_layout import as_bytes

# Where the rows of recently used records lie: 25,000 records of dense keys, which are 100 GB.
_PLACES_BYTES = 16 << 20
# Decoded blocks that are kept; the last one always is.
_BLOCKS_BYTES = 64 << 20

_Kept = TypeVar("_Kept")


class _RecentlyUsed(Generic[_Kept]):
    """The values used last, up to a number of bytes; the last one always."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._nbytes = 0
        self._values: OrderedDict[int, tuple[_Kept, int]] = OrderedDict()

    def get(self, key: int) -> _Kept | None:
        """The value of a key, if it is kept."""
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, key: int, value: _Kept, nbytes: int) -> None:
        """Keep a value, and drop what was not used for longest."""
        self._values[key] = (value, nbytes)
        self._nbytes += nbytes
        while self._nbytes > self._limit and len(self._values) > 1:
            self._nbytes -= self._values.popitem(last=False)[1][1]


class _OpenFile:
    """What one process has of the file: the descriptor, and what it knows of its records."""

    def __init__(self, reader: ContainerReader) -> None:
        self.reader = reader
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.places = _RecentlyUsed[RecordPlaces](_PLACES_BYTES)
        self.blocks = _RecentlyUsed[list[Record]](_BLOCKS_BYTES)


class RowReader:
    """Reads the rows of one pass of a file.

    Guarantee: a row has the bits that a student gets. Every record is verified before, or as, the
    first of its rows is read, unless `verify` is off.

    Args:
        path: The file, absolute.
        name: What messages call it.
        pass_index: The pass whose rows are read.
        verify: Whether to compare checksums.
        limits: Limits on what is read.
        keep_index: Whether to use and write an index beside the file.

    Raises:
        ConfigurationError: There is no such file or pass.
        DataError: The file is unfinished or damaged.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        pass_index: int,
        verify: bool,
        limits: Limits,
        keep_index: bool,
    ) -> None:
        self.path, self.name = path, name
        self.pass_index = pass_index
        self._verify, self._limits = verify, limits
        self._closed = False
        source = FileSource(path, verify=verify, limits=limits)
        source.connect()
        self._open: _OpenFile | None = None
        reader = self._open_reader()
        try:
            source = FileSource(name, verify=verify, limits=limits)
            index = index_of(reader, source, keep=keep_index)
            if pass_index >= len(index.passes):
                raise ConfigurationError(
                    f"{name} has {len(index.passes)} passes, so pass_index is from 0 to "
                    f"{len(index.passes) - 1}; {pass_index} was asked for"
                )
            self.index: RecordIndex = index
            # The number of the pass's first record.
            self._first = index.first_of(pass_index)
            # Which records were verified. Shared with workers: those of the next epoch, which are
            # new processes, need not verify them again.
            count = len(index.offsets) if verify else 0
            flags = torch.zeros(count, dtype=torch.uint8)
            self._verified: torch.Tensor = flags.share_memory_()  # type: ignore[no-untyped-call]
            self._stored = reader.description.stored.specs
            self.info = StreamInfo(
                stream=reader.stream,
                description=reader.description,
                schema=reader.schema,
                partitions=1,
            )
        except BaseException:
            self.close()
            raise

    @property
    def rows(self) -> int:
        """The rows of the pass."""
        return self.index.passes[self.pass_index].rows

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def close(self) -> None:
        """Close the file. May be called twice; reading after it is an error."""
        self._closed = True
        self._release()

    def _release(self) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            opened.reader.close()

    def _open_reader(self) -> ContainerReader:
        """Open the file in this process."""
        reader = ContainerReader(
            self.path, verify=self._verify, limits=self._limits, name=self.name
        )
        self._open = _OpenFile(reader)
        # Closes the descriptor of a reader that nobody closed, when it is no longer used.
        weakref.finalize(self, reader.close).atexit = False
        return reader

    def _opened(self) -> _OpenFile:
        """The open file of this process."""
        if self._closed:
            raise ConfigurationError(f"{self.name} was closed; open it again to read its rows")
        if self._open is None or self._open.pid != os.getpid():
            # In a worker. What was inherited is closed here alone, not in the parent.
            self._release()
            reader, index = self._open_reader(), self.index
            if (reader.nbytes, reader.header.sync) != (index.file_bytes, index.sync):
                self._release()
                raise CorruptData(
                    f"{self.name} was replaced or changed after it was opened; open it again"
                )
        opened = self._open
        assert opened is not None, "the file was opened above"
        return opened

    def read(self, wanted: Sequence[tuple[int, int]], into: BatchRows) -> None:
        """Read rows to their places in a batch.

        Args:
            wanted: Pairs of a row of the pass and its row in the batch, sorted.
            into: The batch.

        Raises:
            BatchTooLarge: The batch takes more memory than it may.
            CorruptData: A record is damaged, or is not the one that the index names.
            TruncatedData: The file ends before a row.
        """
        opened = self._opened()
        size = self.info.stream.rows_per_record
        # The spans of one record: rows that follow each other, there and in the batch, are one.
        spans: list[list[int]] = []
        begin, last, last_at = -size, -1, -1
        with opened.lock:
            for row, at in wanted:
                if row >= begin + size:
                    if spans:
                        self._read_spans(opened, begin // size, spans, into)
                    begin = row - row % size
                    spans = [[row - begin, 1, at]]
                elif row == last + 1 and at == last_at + 1:
                    spans[-1][1] += 1
                else:
                    spans.append([row - begin, 1, at])
                last, last_at = row, at
            self._read_spans(opened, begin // size, spans, into)

    def _read_spans(
        self, opened: _OpenFile, record: int, spans: Sequence[Sequence[int]], into: BatchRows
    ) -> None:
        """Read rows of one record: for each span its first row, its rows, its row in the batch."""
        number = self._first + record
        places = opened.places.get(number) or self._look_up(opened, number, record)
        if isinstance(places, Record):
            for start, count, at in spans:
                into.add(places, start, start + count, at)
            return
        read, where = opened.reader.read_into, places.where
        for memory, row_bytes, data_at in zip(
            into.memory, into.row_bytes, places.data_at, strict=True
        ):
            if row_bytes:
                for start, count, at in spans:
                    target = memory[at * row_bytes : (at + count) * row_bytes]
                    read((target,), data_at + start * row_bytes, where)
        for spec, data_at, starts in zip(self._stored, places.data_at, places.starts, strict=True):
            if starts is None:
                continue
            for start, count, at in spans:
                first, stop = int(starts[start]), int(starts[start + count])
                values = np.empty((stop - first, *spec.inner), spec.wire_dtype.numpy_dtype)
                if values.nbytes:
                    element_bytes = values.nbytes // (stop - first)
                    read((as_bytes(values).data,), data_at + first * element_bytes, where)
                lengths = np.diff(starts[start : start + count + 1])
                into.add_ragged(spec.key, at, Ragged(values, lengths))

    def _look_up(self, opened: _OpenFile, number: int, record: int) -> RecordPlaces | Record:
        """Where a record's rows lie, or the decoded record if they cannot be read alone."""
        index, reader = self.index, opened.reader
        offset = int(index.offsets[number])
        ordinal = 0 if index.ordinals is None else int(index.ordinals[number])
        records = opened.blocks.get(offset)
        if records is None:
            block = next(reader.stored_blocks(offset), None)
            if block is None:
                raise CorruptData(
                    f"{self.name}, byte {offset}: the file ends where record {record} of pass "
                    f"{self.pass_index} was; it was changed after it was opened"
                )
            if block.count == 1 and reader.header.codec == "null":
                return self._locate(opened, block, number, record)
            records = block.records()
            nbytes = sum(each.nbytes + (1 << 10) for each in records)
            opened.blocks.put(offset, records, nbytes)
        if ordinal >= len(records):
            raise self._not_there(record, f"{self.name}, block at byte {offset}", None)
        found = records[ordinal]
        self._check_head(found.head, record, f"{self.name}, block at byte {offset}")
        return found

    def _locate(
        self, opened: _OpenFile, block: StoredBlock, number: int, record: int
    ) -> RecordPlaces:
        """Verify an uncompressed record if it was not yet, and find its rows."""
        if self._verify and not self._verified[number]:
            (whole,) = block.records()
            self._check_head(whole.head, record, block.where)
            self._verified[number] = 1
        places = locate_rows(opened.reader, block, self._stored)
        self._check_head(places.head, record, block.where)
        opened.places.put(number, places, places.memory_bytes)
        return places

    def _check_head(self, head: RecordHead, record: int, where: str) -> None:
        """Raise CorruptData if a record is not the one that the index names."""
        stream, rows = self.info.stream, self.rows
        expected = min(stream.rows_per_record, rows - record * stream.rows_per_record)
        if head.end is not None or (head.run_id, head.pass_index, head.sequence, head.rows) != (
            stream.run_id,
            self.pass_index,
            record,
            expected,
        ):
            raise self._not_there(record, where, head)

    def _not_there(self, record: int, where: str, head: RecordHead | None) -> CorruptData:
        return CorruptData(
            f"{where}: {head or 'nothing'} is where record {record} of pass {self.pass_index} "
            "must be; the file was changed after its index was built: delete the index, and open "
            "the file again"
        )
