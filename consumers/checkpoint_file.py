"""A student's state <-> a JSON file with a version and a checksum, written atomically.

What the state means is known to `resume_state.py`, not here.
"""

from __future__ import annotations

import contextlib
import json
import operator
import os
from collections.abc import Mapping
from typing import Any, SupportsFloat

import xxhash

from tutelage.schemas.disk import file_path, new_file, open_to_read, sync_file, sync_folder
from tutelage.schemas.errors import ConfigurationError, CorruptData

VERSION = 2
# Enough for the offsets of a million partitions. Parsed JSON may take twenty times as much memory.
_MOST_BYTES = 16 << 20


def save_checkpoint(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Write a student's state to a file.

    Guarantee: whatever is killed meanwhile, the file is either the old or the new checkpoint, and
    complete.

    Args:
        path: The file.
        state: JSON-like values.

    Raises:
        ConfigurationError: The file cannot be written, or the state cannot be written as JSON. No
            temporary file is left, and an older checkpoint is unchanged.
    """
    target, name = file_path("checkpoint", path), os.fspath(path)
    try:
        # Converted to JSON and back, because the checksum must be that of the values as they will
        # be read.
        plain = json.loads(json.dumps(dict(state), default=_number, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"checkpoint {name} cannot be written: the state is not JSON: {error}"
        ) from error
    text = json.dumps({**plain, "checksum": _checksum(plain)}, indent=1)
    try:
        descriptor, temporary = new_file(target)
    except OSError as error:
        raise ConfigurationError(
            f"checkpoint {name} cannot be written: {error.strerror}"
        ) from error
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            sync_file(file.fileno(), target)
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise ConfigurationError(
                f"checkpoint {name} cannot be written: {error.strerror}"
            ) from error
        raise
    try:
        sync_folder(target.parent)
    except OSError as error:
        raise ConfigurationError(
            f"checkpoint {name} was written, but cannot be synced to disk: {error.strerror}"
        ) from error


def _number(value: Any) -> int | float:
    """Convert a number of another library, such as numpy's; TypeError for anything else."""
    try:
        return operator.index(value)
    except TypeError:
        if isinstance(value, SupportsFloat):
            return float(value)
        raise TypeError(f"it holds a {type(value).__name__}") from None


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the state from a checkpoint.

    Args:
        path: The file.

    Returns:
        The state that was written.

    Raises:
        ConfigurationError: The file does not exist or cannot be read.
        CorruptData: The file is not a checkpoint.
    """
    target, name = file_path("checkpoint", path), f"checkpoint {os.fspath(path)}"
    try:
        with open(open_to_read(target, name), "rb") as file:
            text = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{name} cannot be read: {error.strerror}") from error
    if len(text) > _MOST_BYTES:
        raise CorruptData(f"{name} is larger than {_MOST_BYTES >> 20} MiB, which no checkpoint is")
    try:
        state = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptData(f"{path} is not a checkpoint: {error}") from error
    if not isinstance(state, dict) or state.get("version") != VERSION:
        found = state.get("version") if isinstance(state, dict) else None
        raise CorruptData(f"{path} is not a checkpoint of version {VERSION} (it has {found!r:.80})")
    if state.pop("checksum", None) != _checksum(state):
        raise CorruptData(
            f"{path} fails its checksum: it was changed after it was written; begin without it, or "
            "from an older one"
        )
    return state


def _checksum(state: Mapping[str, Any]) -> str:
    """The xxh3-64, in hexadecimal, of the state as JSON with sorted keys and no spaces."""
    return xxhash.xxh3_64_hexdigest(
        json.dumps(state, sort_keys=True, separators=(",", ":")).encode()
    )
