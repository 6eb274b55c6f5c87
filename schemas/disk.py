"""File system operations beyond reading and writing: syncing, locking, links, safe opening.

Some network file systems cannot sync or lock. That is not an error, because what was written is
still whole; every other failure is an OSError, and the caller adds the file's name. Knows nothing
of what files hold.
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

# ENOTSUP and EOPNOTSUPP differ on some systems.
_LACKING = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
_FILE_NOT_SYNCED = _LACKING | {errno.EINVAL}
# A folder may be writable but not readable; some file systems sync no read-only descriptor.
_FOLDER_NOT_SYNCED = _LACKING | {errno.EINVAL, errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR}
_NOT_LOCKED = _LACKING | {errno.ENOLCK, errno.EINVAL}
_LOCKED_BY_ANOTHER = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})

# Folders that were warned about. Checkpoints are written often, and one warning is enough.
_warned: set[Path] = set()


def file_path(name: str, value: object) -> Path:
    """The absolute path of a file to write, or to read if it exists. Symbolic links are followed.

    A link to another disk means that the file is wanted there, and renaming onto the link would
    replace the link.

    Raises:
        ConfigurationError: The value is not a path; or it names something other than a regular file
            (renaming onto a device would replace it, and reading it could block forever); or it is
            a link that another user made in a folder where everybody may make links.
    """
    path = absolute_path(name, value)
    if os.path.islink(path):
        _check_link_owner(name, path)
        path = Path(os.path.realpath(path))
    if os.path.exists(path) and not os.path.isfile(path):
        raise ConfigurationError(f"{name} {str(value)!r} is a folder or a device; name a file")
    return path


def _check_link_owner(name: str, path: Path) -> None:
    """ConfigurationError if another user made this link in a shared folder such as /tmp."""
    # The rule of Linux's fs.protected_symlinks. The kernel does not apply it to os.path.realpath.
    try:
        is_planted = is_foreign(os.lstat(path), path)
    except OSError:
        return
    if is_planted:
        raise ConfigurationError(
            f"{name} {str(path)!r} is a symbolic link that another user made in a folder where "
            "everybody may write; it is not followed: name the file itself, or a file in a folder "
            "of your own"
        )


def is_foreign(found: os.stat_result, path: Path) -> bool:
    """Whether a file or link in a shared folder, such as /tmp, belongs to another user.

    Another user is neither the one of this process nor the folder's owner. In a folder where not
    everybody may make files the answer is False.
    """
    folder = os.stat(path.parent)
    is_shared = bool(folder.st_mode & stat.S_ISVTX and folder.st_mode & stat.S_IWOTH)
    return is_shared and found.st_uid not in (os.geteuid(), folder.st_uid)


def new_file(beside: Path) -> tuple[int, Path]:
    """Create a file beside another one that it is to replace.

    Its name cannot be guessed, and an existing file or symbolic link is never opened.

    Returns:
        A descriptor open for writing, and the path.

    Raises:
        OSError: It cannot be created.
    """
    path = beside.with_name(f"{beside.name}.{secrets.token_hex(8)}.tmp")
    return os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666
    ), path


def open_to_read(path: Path, name: str) -> int:
    """Open a regular file for reading. Never blocks: the type is checked after opening.

    Args:
        path: The file.
        name: What messages call it.

    Returns:
        A descriptor.

    Raises:
        ConfigurationError: It is a folder, a pipe, a device or a socket.
        OSError: It cannot be opened.
    """
    # Opening a named pipe would wait for its writer, and opening a terminal could make it the
    # controlling terminal of this process.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        # The error of a socket, and of a device without a driver.
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
    """Sync a file's bytes to disk; warn once per folder if the file system cannot.

    Raises:
        OSError: Syncing failed.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _FILE_NOT_SYNCED:
            raise
        # A network file system reports failed writes when a descriptor is closed, even a duplicate.
        os.close(os.dup(descriptor))
        level = logging.DEBUG if path.parent in _warned else logging.WARNING
        _warned.add(path.parent)
        log.log(
            level,
            "%s: this file system cannot sync files (%s); a power cut may lose what was just "
            "written",
            path,
            error.strerror,
        )


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to disk, if the file system can.

    Raises:
        OSError: Syncing failed.
    """
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


def lock_file(descriptor: int, path: Path) -> bool:
    """Lock an open file for this process.

    Returns:
        False if another process holds the lock. True, with a warning, if the file system has no
        locks.

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
            "%s: this file system has no locks (%s), so a second writer of this file is not "
            "noticed; run only one",
            path,
            error.strerror,
        )
    return True


def is_at_path(descriptor: int, path: Path) -> bool:
    """Whether the path names the open file directly, not through a symbolic link."""
    try:
        there = os.lstat(path)
    except OSError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))
