"""The stack's folder: who may own it, what the stack writes into it, and what `down` removes.

Only files with names that Kafka, the registry or the stack use are removed, and no symbolic link is
followed. Other files in the folder or in a data folder stay.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tutelage.deploy.local.programs import StackError

# What Kafka writes into its data folder and into the partitions' folders in it. The names are from
# org.apache.kafka.storage.internals.log.LogFileUtils, UnifiedLog and LogManager, and from
# org.apache.kafka.snapshot.Snapshots. A segment's name begins with its first offset, in 20 digits.
_KAFKA_FILES = re.compile(
    r"\d{20}[-.].*"
    r"|(leader-epoch-checkpoint|partition\.metadata|quorum-state|meta\.properties)(\.tmp)?"
    r"|(recovery-point-offset|log-start-offset|replication-offset|cleaner-offset)-checkpoint"
    r"(\.tmp)?"
    r"|bootstrap\.checkpoint|\.lock|\.kafka_cleanshutdown"
)
_KAFKA_FOLDERS = re.compile(r".+-\d+|.+\.[0-9a-f]{32}-(delete|future|stray)")
# H2's files of the database `schemas`.
_REGISTRY_FILES = re.compile(r"schemas(\.\d+)?\.(mv|trace|lock|temp)\.db(\.\w+)?")
_NO_FOLDERS = re.compile(r"(?!)")

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_MOST_BYTES = 1 << 16


@dataclass(frozen=True)
class StackFolder:
    """A folder that belongs to one stack of one user.

    Guarantee: nothing is read from, written to or removed from a folder of another user, and no
    symbolic link in the folder is followed.
    """

    path: Path

    def is_there(self) -> bool:
        """Whether the folder exists. Raises StackError if it is not this user's alone."""
        try:
            # A link of another user may point to another folder of this user.
            found = (self.path.lstat(), self.path.stat())
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StackError(f"{self.path} cannot be looked at: {error.strerror}") from error
        for each in found:
            _check_owner(self.path, each)
        if not stat.S_ISDIR(found[1].st_mode):
            raise StackError(f"{self.path} is not a folder: name another one with --folder")
        if found[1].st_mode & _WRITABLE_BY_OTHERS:
            raise StackError(
                f"others may write to {self.path}, and could have put anything there: look at what "
                f"it holds, then `chmod 700 {self.path}`, or name another folder"
            )
        return True

    def claim(self) -> None:
        """Create the folder for this user alone. Raises StackError if it holds anything."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            self.path.mkdir(mode=0o700)
        if not self.is_there():
            raise StackError(f"{self.path} is a link to nothing: name another folder")
        held = sorted(each.name for each in self.path.iterdir() if each.name != "stack.json.new")
        if held:
            more = f" and {len(held) - 1} more" if held[1:] else ""
            raise StackError(
                f"{self.path} holds {held[0]!r}{more} and does not belong to a stack: name a new "
                "or an empty folder"
            )
        self.path.chmod(0o700)

    def check_data(self, name: str) -> None:
        """Raise StackError if a data folder is not a folder of this user."""
        with suppress(FileNotFoundError):
            found = (self.path / name).lstat()
            _check_owner(self.path / name, found)
            if not stat.S_ISDIR(found.st_mode):
                raise StackError(
                    f"{self.path / name} is not the folder that the stack made: remove it, or the "
                    "stack with `tutelage stack down`"
                )

    def read(self, name: str) -> bytes | None:
        """Read a file of this user.

        Returns:
            The bytes, or None if the file does not exist.

        Raises:
            StackError: The file is a link or a pipe, others may write it, or it is larger than 64
                KiB.
        """
        path = self.path / name
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StackError(f"{path} cannot be read, or is a link: {error.strerror}") from error
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            _check_owner(path, found)
            if not stat.S_ISREG(found.st_mode) or found.st_mode & _WRITABLE_BY_OTHERS:
                raise StackError(
                    f"{path} is not a file that this user alone may write: look at what it says "
                    "before you use its stack"
                )
            read = file.read(_MOST_BYTES + 1)
        if len(read) > _MOST_BYTES:
            raise StackError(
                f"{path} is larger than any that a stack writes: it was not written by one"
            )
        return read

    def write(self, name: str, text: str) -> None:
        """Write a file that only this user may read, and replace one of the same name."""
        path = self.path / name
        path.unlink(missing_ok=True)
        with os.fdopen(
            os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            ),
            "w",
        ) as file:
            file.write(text)

    def open_log(self, name: str) -> int:
        """Open a file to append to; returns its descriptor."""
        flags = (
            os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
        return os.open(self.path / name, flags, 0o600)

    def remove_data(self, name: str, *, registry: bool) -> None:
        """Remove what a broker or the registry wrote into its data folder.

        The folder is removed, too, if it is empty then.
        """
        data = self.path / name
        if data.is_symlink() or not data.is_dir():
            return
        files, folders = (
            (_REGISTRY_FILES, _NO_FOLDERS) if registry else (_KAFKA_FILES, _KAFKA_FOLDERS)
        )
        # fwalk enters no linked folder, `data` included. Names are relative to an open folder.
        for _, inner, names, at in os.fwalk(data, topdown=False, follow_symlinks=False):
            for each in names:
                if files.fullmatch(each):
                    os.unlink(each, dir_fd=at)
            for each in inner:
                if folders.fullmatch(each):
                    _remove_empty(each, at)
        _remove_empty(str(data), None)

    def remove_file(self, name: str) -> None:
        """Remove a file that the stack wrote, if it is there."""
        with suppress(FileNotFoundError, IsADirectoryError, PermissionError):
            (self.path / name).unlink()

    def remove_if_empty(self) -> None:
        """Remove the folder, unless others put something into it."""
        _remove_empty(str(self.path), None)


def _remove_empty(folder: str, at: int | None) -> None:
    # The folder may hold other files, not exist, or be a link.
    with suppress(OSError):
        os.rmdir(folder, dir_fd=at)


def _check_owner(path: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise StackError(f"{path} belongs to another user (id {found.st_uid}): name another folder")
