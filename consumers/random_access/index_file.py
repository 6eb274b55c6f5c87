"""A file's index <-> `NAME.idx` beside it: small, bound to that file, and checked before it is used.

Little-endian: the magic bytes, then the header as int64 (bytes of the file, passes, records of all
passes, whether blocks hold several records), the sync marker, xxh3-64 of the run id, per pass its
records and rows (int64), the offsets (int64), the ordinals (uint32, if blocks hold several), and
the xxh3-128 of everything before it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import struct
from pathlib import Path

import numpy as np
import xxhash

from tutelage.consumers.random_access.record_index import RecordIndex, build_index
from tutelage.consumers.sources.file import FileSource
from tutelage.schemas.container_format import SYNC_BYTES
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.disk import new_file, open_to_read
from tutelage.schemas.errors import ConfigurationError
from tutelage.schemas.record import End

log = logging.getLogger(__name__)

MAGIC = b"TUTIDX\x00\x01"
_HEADER = struct.Struct(f"<{len(MAGIC)}s4q{SYNC_BYTES}s8s")
_PASS = struct.Struct("<2q")
_DIGEST_BYTES = 16


def index_path(path: Path) -> Path:
    """The path of a file's index."""
    return path.with_name(path.name + ".idx")


def index_of(reader: ContainerReader, source: FileSource, *, keep: bool) -> RecordIndex:
    """Return the index of an open file: the one beside it, or one that is built now.

    Args:
        reader: The file.
        source: The same file.
        keep: Whether to use the index beside the file, and to write it there.

    Raises:
        TruncatedData: The file ends before the end of its run.
        DataError: It is damaged.
    """
    index = load_index(source.path, reader) if keep else None
    if index is None:
        index = build_index(reader, source)
        if keep:
            save_index(source.path, index)
    return index


def load_index(path: Path, reader: ContainerReader) -> RecordIndex | None:
    """Read the index of an open file.

    Args:
        path: The knowledge file.
        reader: The same file, open.

    Returns:
        None if there is no index, or if it is damaged or of another file; the log says which.
    """
    where = index_path(path)
    try:
        descriptor = open_to_read(where, str(where))
    except FileNotFoundError:
        return None
    except (OSError, ConfigurationError) as error:
        log.warning("index %s cannot be read (%s); the file is scanned", where, error)
        return None
    try:
        # A record takes more bytes in its file than here, so no index is larger than its file.
        limit = reader.nbytes + _HEADER.size + _DIGEST_BYTES
        nbytes = os.fstat(descriptor).st_size
        if nbytes > limit:
            raise ValueError("it is larger than an index of this file can be")
        return _decode(_read(descriptor, nbytes), reader)
    except (OSError, ValueError) as error:
        log.warning("index %s is not used and is built again: %s", where, error)
        return None
    finally:
        os.close(descriptor)


def _read(descriptor: int, nbytes: int) -> bytearray:
    """The first `nbytes` bytes, or fewer if the file is cut meanwhile."""
    raw, at = bytearray(nbytes), 0
    # One call reads at most 2 GiB.
    while at < nbytes and (got := os.preadv(descriptor, [memoryview(raw)[at:]], at)):
        at += got
    return raw[:at]


def save_index(path: Path, index: RecordIndex) -> None:
    """Write the index beside its file, if that is possible. A file that is no index stays.

    Args:
        path: The knowledge file.
        index: Its index.
    """
    target = index_path(path)
    try:
        if os.path.lexists(target) and not _is_index(target):
            log.warning("%s is no index of Tutelage's; it is not replaced", target)
            return
        descriptor, temporary = new_file(target)
    except OSError as error:
        log.info("index %s is not written: %s", target, error.strerror)
        return
    try:
        with open(descriptor, "wb") as file:
            file.write(_encode(index))
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if not isinstance(error, OSError):
            raise
        log.info("index %s is not written: %s", target, error.strerror)


def _is_index(target: Path) -> bool:
    try:
        descriptor = open_to_read(target, str(target))
    except (OSError, ConfigurationError):
        return False
    try:
        # An empty or cut file is what a full disk leaves of an index.
        return MAGIC.startswith(os.pread(descriptor, len(MAGIC), 0))
    finally:
        os.close(descriptor)


def _encode(index: RecordIndex) -> bytes:
    parts = [
        _HEADER.pack(
            MAGIC,
            index.file_bytes,
            len(index.passes),
            len(index.offsets),
            index.ordinals is not None,
            index.sync,
            _run_digest(index.run_id),
        ),
        *(_PASS.pack(end.records, end.rows) for end in index.passes),
        index.offsets.astype("<i8").tobytes(),
    ]
    if index.ordinals is not None:
        parts.append(index.ordinals.astype("<u4").tobytes())
    body = b"".join(parts)
    return body + xxhash.xxh3_128_digest(body)


def _decode(raw: bytearray, reader: ContainerReader) -> RecordIndex:
    """The index in these bytes. ValueError if they are not an index of this file."""
    if len(raw) < _HEADER.size + _DIGEST_BYTES or not raw.startswith(MAGIC):
        raise ValueError("it is no index, or of another version")
    body = memoryview(raw)[:-_DIGEST_BYTES]
    if xxhash.xxh3_128_digest(body) != raw[-_DIGEST_BYTES:]:
        raise ValueError("it fails its checksum")
    _, file_bytes, passes, records, several, sync, run = _HEADER.unpack_from(body)
    run_id = reader.stream.run_id
    if (file_bytes, sync, run) != (reader.nbytes, reader.header.sync, _run_digest(run_id)):
        raise ValueError("it belongs to another file, or to an earlier state of this one")
    expected = _HEADER.size + passes * _PASS.size + records * (12 if several else 8)
    if passes != reader.stream.passes or records < 0 or expected != len(body):
        raise ValueError("its counts do not fit its size")
    ends = tuple(
        End(records=counts[0], rows=counts[1])
        for counts in _PASS.iter_unpack(body[_HEADER.size : _HEADER.size + passes * _PASS.size])
    )
    size = reader.stream.rows_per_record
    if sum(end.records for end in ends) != records or any(
        end.records != -(-end.rows // size) for end in ends
    ):
        raise ValueError("its records do not fit its rows")
    at = _HEADER.size + passes * _PASS.size
    return RecordIndex(
        file_bytes=file_bytes,
        sync=sync,
        run_id=run_id,
        passes=ends,
        offsets=np.frombuffer(body, "<i8", records, at),
        ordinals=np.frombuffer(body, "<u4", records, at + 8 * records) if several else None,
    )


def _run_digest(run_id: str) -> bytes:
    return xxhash.xxh3_64_digest(run_id.encode())
