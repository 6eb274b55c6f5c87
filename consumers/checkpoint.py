"""The position of everything, in one JSON file: written atomically, versioned, checked when it is loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tutelage.consumers.source import Opened, Position
from tutelage.schemas.errors import ConfigurationError, CorruptData, RunMismatch, TopicIdentityError

VERSION = 1


def save_checkpoint(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Write a student's state: the file is the old or the new one, never half of either, whatever dies."""
    target = Path(path)
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(state, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise ConfigurationError(f"checkpoint {target} cannot be written: {error.strerror}") from error


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The state a checkpoint holds. ConfigurationError if there is none, CorruptData if the file is no checkpoint."""
    try:
        state = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CorruptData(f"{path} is not a checkpoint: {error}") from error
    if not isinstance(state, dict) or state.get("version") != VERSION:
        found = state.get("version") if isinstance(state, dict) else None
        raise CorruptData(f"{path} is not a checkpoint of version {VERSION} (it has {found!r})")
    return state


def source_state(name: str, opened: Opened, identity: Mapping[str, str], position: Position) -> dict[str, Any]:
    """One source's part of a state: where it is, and what must be the same for that to mean anything."""
    stream = opened.stream
    return {
        "source": name,
        "run_id": stream.run_id,
        "rows_per_record": stream.rows_per_record,
        "partitions": opened.partitions,
        "identity": dict(identity),
        "position": {**asdict(position), "offsets": list(position.offsets)},
    }


def restored_position(saved: Mapping[str, Any], name: str, opened: Opened, identity: Mapping[str, str]) -> Position:
    """The position in a source's state. RunMismatch or TopicIdentityError, with the difference, if it is of something else."""
    stream = opened.stream
    now = {"run_id": stream.run_id, "rows_per_record": stream.rows_per_record, "partitions": opened.partitions}
    for field, value in now.items():
        if saved.get(field) != value:
            raise RunMismatch(
                f"the checkpoint was taken from {saved.get('source')} with {field} {saved.get(field)!r}; {name} has {value!r}"
            )
    if saved.get("identity") != dict(identity):
        raise TopicIdentityError(
            f"the checkpoint was taken from {saved.get('source')} of {saved.get('identity')}; {name} is of {dict(identity)}: it was recreated, "
            "or is on another cluster"
        )
    try:
        position = dict(saved["position"])
        numbers = {name: int(position[name]) for name in ("pass_index", "sequence", "row")}
        return Position(**numbers, offsets=tuple(int(offset) for offset in position["offsets"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptData(f"the checkpoint's position in {name} is broken: {error}") from error
