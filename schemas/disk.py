"""What is asked of a file system beyond reading and writing: keep bytes and names for good, keep other writers out.

Network file systems do not all have these. Where one says that it lacks them, what was written is still whole, so that is no
failure; any other error is. Errors come as OSError, for the caller to name the file in.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
import stat
from pathlib import Path

from tutelage.schemas.arguments import absolute_path
from tutelage.schemas.errors import ConfigurationError

log = logging.getLogger(__name__)

# ENOTSUP and EOPNOTSUPP are two numbers on some systems.
_LACKING = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
_FILE_NOT_SYNCED = _LACKING | {errno.EINVAL}
# A folder may also be one that may be written but not read, and some file systems sync no descriptor that is open for reading only.
_FOLDER_NOT_SYNCED = _LACKING | {errno.EINVAL, errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR}
_NOT_LOCKED = _LACKING | {errno.ENOLCK, errno.EINVAL}
_LOCKED_BY_ANOTHER = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})

# Folders whose files cannot be synced: checkpoints are written often, and one warning is enough.
_warned: set[Path] = set()


def file_path(name: str, value: object) -> Path:
    """The absolute path of a file to write, or to read if it is there. A symbolic link stands for the file it points to, there or not yet.

    Whoever links a name to another disk wants the file there: renaming onto the link would replace the link.

    Raises:
        ConfigurationError: The value is no path; what is there is no file, so that renaming onto it would replace a device, and
            reading it could wait for ever; or it is a link that somebody else made in a folder where everybody may make links.
    """
    path = absolute_path(name, value)
    if os.path.islink(path):
        _refuse_foreign_link(name, path)
        path = Path(os.path.realpath(path))
    if os.path.exists(path) and not os.path.isfile(path):
        raise ConfigurationError(f"{name} {str(value)!r} is a folder or a device; name a file")
    return path


def _refuse_foreign_link(name: str, path: Path) -> None:
    """ConfigurationError for a link in a folder such as /tmp that is neither ours nor the folder's owner's.

    The rule of Linux's `fs.protected_symlinks`, which the kernel cannot apply where a link is resolved by its name.
    """
    try:
        planted = is_foreign(os.lstat(path), path)
    except OSError:
        return
    if planted:
        raise ConfigurationError(
            f"{name} {str(path)!r} is a symbolic link that another user made in a folder where everybody may write; "
            "it is not followed: name the file itself, or a file in a folder of your own"
        )


def is_foreign(found: os.stat_result, path: Path) -> bool:
    """Whether a file or link lies in a folder where everybody may make files, such as /tmp, and neither we nor that folder's owner made it."""
    folder = os.stat(path.parent)
    is_shared = bool(folder.st_mode & stat.S_ISVTX and folder.st_mode & stat.S_IWOTH)
    return is_shared and found.st_uid not in (os.geteuid(), folder.st_uid)


def new_file(beside: Path) -> tuple[int, Path]:
    """A new file in the folder of another, for what is to replace that one: open for writing, and its path.

    Its name cannot be guessed, and nothing that is there is opened, not even through a symbolic link. OSError if it fails.
    """
    path = beside.with_name(f"{beside.name}.{secrets.token_hex(8)}.tmp")
    return os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666
    ), path


def open_to_read(path: Path, name: str) -> int:
    """A descriptor of a regular file that is there. Never waits, whatever the path names now: it is looked at once it is open.

    Raises:
        ConfigurationError: It is a folder, a pipe, a device or a socket.
        OSError: It cannot be opened.
    """
    # A named pipe would wait for its writer, and a terminal could become this process's own.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        # What a socket says, and a device without a driver.
        if error.errno == errno.ENXIO:
            raise ConfigurationError(_no_file(name)) from error
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise ConfigurationError(f"{name} is a folder; name a file")
        if not stat.S_ISREG(mode):
            raise ConfigurationError(_no_file(name))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _no_file(name: str) -> str:
    return f"{name} is a pipe, a socket or a device; name a regular file"


def sync_file(descriptor: int, path: Path) -> None:
    """Have the disk keep a file's bytes; one warning a folder where the file system cannot be asked to. OSError if it fails."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _FILE_NOT_SYNCED:
            raise
        # A network file system reports what it could not write when a descriptor is closed, even a copy.
        os.close(os.dup(descriptor))
        level = logging.DEBUG if path.parent in _warned else logging.WARNING
        _warned.add(path.parent)
        log.log(
            level,
            "%s: this file system cannot sync files (%s); a power cut may lose what was just written",
            path,
            error.strerror,
        )


def sync_folder(folder: Path) -> None:
    """Have the disk keep the names in a folder, where the file system can be asked to. OSError if it fails."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _FOLDER_NOT_SYNCED:
            raise
        log.debug("%s: this folder cannot be synced (%s)", folder, error.strerror)


def locked(descriptor: int, path: Path) -> bool:
    """Lock an open file for this process; False if another has it. Without locks in the file system: True, with a warning.

    Raises:
        OSError: The lock failed for another reason.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _LOCKED_BY_ANOTHER:
            return False
        if error.errno not in _NOT_LOCKED:
            raise
        log.warning(
            "%s: this file system has no locks (%s), so a second writer of this file is not noticed; run only one",
            path,
            error.strerror,
        )
    return True


def is_named(descriptor: int, path: Path) -> bool:
    """Whether the path names the file that is open: itself, and not through a symbolic link."""
    try:
        there = os.lstat(path)
    except OSError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))
