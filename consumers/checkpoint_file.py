"""A student's state in one JSON file: written atomically, versioned. What is in it is for `resume_state.py`."""

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
# Room for the offsets of a million partitions. What JSON becomes in memory may be twenty times as large.
_MOST_BYTES = 16 << 20


def save_checkpoint(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Write a student's state: the file is the old or the new one, never half of either, whatever dies.

    Raises:
        ConfigurationError: The file cannot be written, or the state holds what JSON cannot; nothing is left behind, and an older
            checkpoint stays as it is.
    """
    target, name = file_path("checkpoint", path), os.fspath(path)
    try:
        # As it will be read: what becomes another value in JSON would fail its checksum.
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
            f"checkpoint {name} cannot be kept for good: {error.strerror}"
        ) from error


def _number(value: Any) -> int | float:
    """A number of another library, such as numpy's, as one of Python's. TypeError for anything else."""
    try:
        return operator.index(value)
    except TypeError:
        if isinstance(value, SupportsFloat):
            return float(value)
        raise TypeError(f"it holds a {type(value).__name__}") from None


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The state a checkpoint holds. ConfigurationError if there is none, CorruptData if the file is no checkpoint."""
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
            f"{path} fails its checksum: it was changed after it was written; begin without it, or from an older one"
        )
    return state


def _checksum(state: Mapping[str, Any]) -> str:
    """xxh3-64, in hexadecimal, of the state as JSON with sorted keys and no spaces."""
    return xxhash.xxh3_64_hexdigest(
        json.dumps(state, sort_keys=True, separators=(",", ":")).encode()
    )
