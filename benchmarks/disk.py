"""Syncs files to the disk, and drops them from the page cache."""

from __future__ import annotations

import io
import os


def sync_file(file: io.BufferedWriter) -> None:
    """Write an open file's buffer and sync it."""
    file.flush()
    os.fsync(file.fileno())


def sync_path(path: str) -> None:
    """Sync a file that is closed."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def drop_from_cache(path: str) -> None:
    """Drop a file from the page cache, so that the next read is cold."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
