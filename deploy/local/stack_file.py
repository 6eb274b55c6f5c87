"""`stack.json`: ports and process ids of a stack. It holds no commands.

Somebody who changes the file can only keep the stack from starting: commands, environments and
broker settings are built from the ports (`command_lines.py`), and every value is checked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tutelage.deploy.local.command_lines import (
    HOST,
    REGISTRY,
    BrokerPorts,
    RegistryPorts,
    broker_name,
)
from tutelage.deploy.local.folder import StackFolder
from tutelage.deploy.local.programs import StackError

NAME = "stack.json"
# Format 1 had no number and held commands.
_FORMAT = 2
_BROKERS = (1, 3)
_PORTS = range(1, 1 << 16)
_LATEST_S = 1 << 40


@dataclass(frozen=True, kw_only=True, slots=True)
class StackAddresses:
    """The addresses of a running stack."""

    bootstrap_servers: str
    registry: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """A process of the stack, identified by its id and creation time, because ids are reused."""

    pid: int
    created: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StackState:
    """The ports of a stack, and the processes that were started last."""

    folder: Path
    brokers: tuple[BrokerPorts, ...]
    registry: RegistryPorts
    #: Whether everything has answered once. A start that was interrupted before is not continued.
    complete: bool = False
    started: Mapping[str, Started] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its processes."""
        return (*(broker_name(index) for index in range(len(self.brokers))), REGISTRY)

    @property
    def addresses(self) -> StackAddresses:
        """Where clients find it."""
        return StackAddresses(
            bootstrap_servers=",".join(f"{HOST}:{place.advertised}" for place in self.brokers),
            registry=f"http://{HOST}:{self.registry.port}/apis/ccompat/v7",
        )

    def port(self, name: str) -> int:
        """The port that one of its processes listens on."""
        return self.registry.port if name == REGISTRY else self.brokers[self.names.index(name)].port


def read_state(folder: StackFolder) -> StackState | None:
    """Read and check a folder's `stack.json`; None if there is none.

    Raises:
        StackError: Others may write the folder or file, or the file belongs to another folder, has
            an earlier format, or was not written by a stack. Nothing was changed.
    """
    if not folder.is_there():
        return None
    read = folder.read(NAME)
    if read is None:
        return None
    file = folder.path / NAME
    try:
        state = _state(json.loads(read), file)
    except (ValueError, RecursionError) as error:
        raise StackError(
            f"{file} is not what a stack writes: {error}. Nothing was started, ended or removed; "
            "if it is a stack's that was damaged, end its processes yourself and delete "
            f"{folder.path}"
        ) from error
    if not _is_same(state.folder, folder.path):
        raise StackError(
            f"{file} is of the stack in {str(state.folder)!r}, not of this folder. Nothing was "
            "started, ended or removed: move the folder back to its place, or delete the copy "
            "yourself"
        )
    return state


def write_state(folder: StackFolder, state: StackState) -> None:
    """Replace `stack.json` in one step, so that it is never half written."""
    new = f"{NAME}.new"
    values = {"format": _FORMAT, **asdict(state), "folder": str(state.folder)}
    folder.write(new, json.dumps(values, indent=1))
    os.replace(folder.path / new, folder.path / NAME)


def _state(value: Any, file: Path) -> StackState:
    if (
        isinstance(value, dict)
        and "format" not in value
        and {"addresses", "processes"} <= value.keys()
    ):
        raise StackError(
            f"{file} was written by an earlier version of Tutelage, and holds commands that this "
            "one does not run. End its stack with the version that started it "
            "(`tutelage stack down`), or end its processes yourself and delete "
            f"{file.parent}"
        )
    given = _object(value, "it", {"format", "folder", "brokers", "registry", "complete", "started"})
    if type(given["format"]) is not int or given["format"] != _FORMAT:
        raise ValueError(
            f"its format is {_shown(given['format'])}, and this version reads {_FORMAT}"
        )
    if not isinstance(given["folder"], str) or "\0" in given["folder"]:
        raise ValueError("folder is not a path")
    if not isinstance(given["brokers"], list) or len(given["brokers"]) not in _BROKERS:
        raise ValueError("brokers is not a list of 1 or 3")
    if not isinstance(given["complete"], bool):
        raise ValueError("complete is neither true nor false")
    state = StackState(
        folder=Path(given["folder"]),
        brokers=tuple(
            _broker(each, broker_name(index)) for index, each in enumerate(given["brokers"])
        ),
        registry=RegistryPorts(**_ports(given["registry"], REGISTRY, {"port", "management"})),
        complete=given["complete"],
    )
    started = given["started"]
    if not isinstance(started, dict) or not started.keys() <= set(state.names):
        raise ValueError(f"started names other processes than {', '.join(state.names)}")
    return replace(state, started={name: _started(entry, name) for name, entry in started.items()})


def _broker(value: Any, what: str) -> BrokerPorts:
    given = _object(value, what, {"port", "controller", "advertised", "internal"})
    internal = given.pop("internal")
    ports = _ports(given, what, {"port", "controller", "advertised"})
    return BrokerPorts(
        **ports, internal=None if internal is None else _port(internal, f"{what}: internal")
    )


def _started(value: Any, what: str) -> Started:
    given = _object(value, what, {"pid", "created"})
    pid, created = given["pid"], given["created"]
    # 1 is the init process; 0 and negative numbers mean process groups.
    if type(pid) is not int or not 1 < pid < 1 << 31:
        raise ValueError(f"{what}: pid is not a process's id: {_shown(pid)}")
    if type(created) not in (int, float) or not 0 <= created < _LATEST_S:
        raise ValueError(f"{what}: created is not a time: {_shown(created)}")
    return Started(pid=pid, created=float(created))


def _ports(value: Any, what: str, keys: set[str]) -> dict[str, int]:
    return {key: _port(port, f"{what}: {key}") for key, port in _object(value, what, keys).items()}


def _port(value: Any, what: str) -> int:
    if type(value) is not int or value not in _PORTS:
        raise ValueError(f"{what} is not a port: {_shown(value)}")
    return value


def _object(value: Any, what: str, keys: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or value.keys() != keys:
        raise ValueError(f"{what} does not hold {', '.join(sorted(keys))} and nothing else")
    return dict(value)


def _shown(value: Any) -> str:
    return ascii(value)[:40]


def _is_same(recorded: Path, folder: Path) -> bool:
    try:
        return recorded.samefile(folder)
    except (OSError, ValueError):
        return False
