"""A student's state in one JSON file: written atomically, versioned. What is in it is for `place.py`."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from tutelage.schemas.errors import ConfigurationError, CorruptData

VERSION = 2


def save_checkpoint(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Write a student's state: the file is the old or the new one, never half of either, whatever dies."""
    target = Path(path)
    # Before a file is there: what cannot be written as JSON leaves none behind.
    content = json.dumps({**state, "checksum": _checksum(state)}, indent=1, allow_nan=False)
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ConfigurationError(f"checkpoint {target} cannot be written: {error.strerror}") from error


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The state a checkpoint holds. ConfigurationError if there is none, CorruptData if the file is no checkpoint."""
    try:
        state = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CorruptData(f"{path} is not a checkpoint: {error}") from error
    if not isinstance(state, dict) or state.get("version") != VERSION:
        found = state.get("version") if isinstance(state, dict) else None
        raise CorruptData(f"{path} is not a checkpoint of version {VERSION} (it has {found!r})")
    if state.pop("checksum", None) != _checksum(state):
        raise CorruptData(
            f"{path} fails its checksum: it was changed after it was written; begin without it, or from an older one"
        )
    return state


def _checksum(state: Mapping[str, Any]) -> str:
    """xxh3-64, in hexadecimal, of the state as JSON with sorted keys and no spaces."""
    return xxhash.xxh3_64_hexdigest(json.dumps(state, sort_keys=True, separators=(",", ":")).encode())
