"""File systems that lack what others have: what is whole counts as whole there, and a failing disk still fails."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.streams import NUMBERS, stream_of

from tutelage.consumers.checkpoint_file import VERSION, load_checkpoint, save_checkpoint
from tutelage.schemas import disk
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.container_writer import ContainerWriter, partial_path
from tutelage.schemas.errors import ConfigurationError, SinkExists, TransportError, TutelageError

STATE = {"version": VERSION, "sources": []}


def write_file(path: Path) -> None:
    ContainerWriter.create(path, stream_of(), NUMBERS).finish()


def read_file(path: Path) -> None:
    ContainerReader(path).close()


def write_checkpoint(path: Path) -> None:
    save_checkpoint(path, STATE)


def read_checkpoint(path: Path) -> None:
    assert load_checkpoint(path) == STATE


@pytest.fixture(
    params=[(write_file, read_file), (write_checkpoint, read_checkpoint)],
    ids=["container file", "checkpoint"],
)
def kind(request: pytest.FixtureRequest) -> tuple[Callable[[Path], None], Callable[[Path], None]]:
    """How a file of one kind is written and read."""
    found: tuple[Callable[[Path], None], Callable[[Path], None]] = request.param
    return found


@pytest.fixture(autouse=True)
def nothing_was_warned_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(disk, "_warned", set())
    yield


def fail_to_sync(monkeypatch: pytest.MonkeyPatch, number: int, *, folders: bool) -> None:
    """Have every sync of a folder, or of a file, fail with an error number."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == folders:
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


def fail_to_open_folders(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    real = os.open

    def opened(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if os.path.isdir(path):
            raise OSError(number, os.strerror(number))
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", opened)


@pytest.mark.parametrize(
    "number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EPERM]
)
def test_a_folder_that_cannot_be_synced_is_no_failure(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: tuple[Callable[[Path], None], ...],
    number: int,
) -> None:
    write, read = kind
    fail_to_sync(monkeypatch, number, folders=True)
    with caplog.at_level(logging.WARNING):
        write(tmp_path / "a")
    read(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert not caplog.records


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EINVAL])
def test_a_folder_that_cannot_be_opened_is_no_failure(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: tuple[Callable[[Path], None], ...],
    number: int,
) -> None:
    write, read = kind
    fail_to_open_folders(monkeypatch, number)
    write(tmp_path / "a")
    read(tmp_path / "a")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_that_cannot_be_synced_is_whole_and_said_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: tuple[Callable[[Path], None], ...],
    number: int,
) -> None:
    write, read = kind
    fail_to_sync(monkeypatch, number, folders=False)
    with caplog.at_level(logging.WARNING):
        write(tmp_path / "a")
        write(tmp_path / "a")
    read(tmp_path / "a")
    assert ["cannot sync files" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("folders", [False, True])
def test_a_disk_that_fails_is_a_failure(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: tuple[Callable[[Path], None], ...],
    number: int,
    folders: bool,
) -> None:
    write, _ = kind
    fail_to_sync(monkeypatch, number, folders=folders)
    with pytest.raises(TutelageError, match=os.strerror(number)):
        write(tmp_path / "a")
    assert (tmp_path / "a").exists() == folders
    assert not list(tmp_path.glob("*.tmp"))


def test_what_the_disk_could_not_write_is_said_where_only_closing_reports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_sync(monkeypatch, errno.EINVAL, folders=False)
    writer = ContainerWriter.create(tmp_path / "a", stream_of(), NUMBERS)
    real = os.close

    def close(descriptor: int) -> None:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        real(descriptor)
        if is_file:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "close", close)
    with pytest.raises(TransportError, match="No space left"):
        writer.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["a.partial"]


def fail_to_lock(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)


@pytest.mark.parametrize(
    "number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL]
)
def test_without_locks_a_file_is_written_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    fail_to_lock(monkeypatch, number)
    with caplog.at_level(logging.WARNING):
        write_file(tmp_path / "a")
    read_file(tmp_path / "a")
    assert ["has no locks" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (errno.EWOULDBLOCK, SinkExists, "another process"),
        (errno.EACCES, SinkExists, "another process"),
        (errno.EIO, TransportError, "Input/output error"),
    ],
)
def test_a_lock_that_another_process_has_and_one_that_fails_are_told_apart(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    error: type[TutelageError],
    words: str,
) -> None:
    fail_to_lock(monkeypatch, number)
    with pytest.raises(error, match=words):
        write_file(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert partial_path(tmp_path / "a").stat().st_size == 0


def test_a_relative_path_needs_a_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigurationError, match="working directory is gone"):
        disk.file_path("path", "a.avro")
    assert disk.file_path("path", tmp_path / "a.avro") == tmp_path / "a.avro"
