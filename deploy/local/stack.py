"""A broker (or three) and a registry as processes of this machine: started until they answer, stopped by the ids that were started.

Everything a stack has lies in its folder: settings, topics, schemas, logs, and `stack.json` with addresses and process ids. It is for
trying and testing. `stop` ends the processes and keeps their data, and the next `up` continues with it; `down` removes the data too.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import psutil

from tutelage.deploy.local.launches import (
    HOST,
    BrokerPlace,
    broker_properties,
    kafka_command,
    registry_command,
    registry_environment,
)
from tutelage.deploy.local.ports import free_ports, is_free
from tutelage.deploy.local.processes import end, is_running
from tutelage.deploy.local.programs import StackError, find_java, kafka_jars, registry_home
from tutelage.transport.probes import brokers_answer, registry_answers

READY_TIMEOUT_S = 120.0
_REAP_TIMEOUT_S = 15.0
# The system closes the sockets of a process that was killed a moment after it.
_PORT_TIMEOUT_S = 5.0
_REGISTRY = "registry"
_LOGGING = "log4j.properties"
_FIRST_BROKER = "kafka-1"
_NAMES = (_FIRST_BROKER, "kafka-2", "kafka-3", _REGISTRY)


@dataclass(frozen=True, kw_only=True, slots=True)
class StackAddresses:
    """Where a stack that is up can be reached."""

    bootstrap_servers: str
    registry: str


class Stack:
    """One local stack, in one folder.

    Guarantee: `up` returns when broker and registry answer, or raises StackError with what they said and leaves nothing running. Topics
    and schemas, with their ids, outlive every process until `down`. `stop` and `down` end exactly the processes that `up` started.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "stack.json"
        # Processes this object started itself, to be reaped when they end.
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __repr__(self) -> str:
        return f"Stack({str(self._folder)!r})"

    @property
    def folder(self) -> Path:
        """Where everything of the stack lies."""
        return self._folder

    def up(
        self,
        *,
        brokers: int = 1,
        kafka_port: int | None = None,
        registry_port: int | None = None,
        proxied: Callable[[list[int]], list[int]] | None = None,
    ) -> StackAddresses:
        """Start the stack, unless it is up. One that was stopped, or whose processes ended, continues with its data and its ports.

        Args:
            brokers: 1 or 3, of a new stack.
            kafka_port: Of a new stack's first broker; a free one unless given.
            registry_port: Of a new stack's registry; a free one unless given.
            proxied: Given the brokers' ports, returns those they are to advertise to clients: a proxy's, that leads to them.

        Returns:
            Where the stack is.

        Raises:
            StackError: Java, Maven or a port is missing, or a process did not answer.
        """
        running = self.status()
        if running is not None:
            return running
        if brokers not in (1, 3):
            raise StackError(f"a stack has 1 or 3 brokers, not {brokers}")
        state = self._read()
        if state is not None and state.get("complete"):
            return self._continue(state)
        # What a start left that was cut off.
        self.down()
        self._claim_folder()
        java, jars, home = find_java(), kafka_jars(), registry_home()
        places, registry_at, management = _planned(brokers, kafka_port, registry_port, proxied)
        addresses = StackAddresses(
            bootstrap_servers=",".join(f"{HOST}:{place.advertised}" for place in places),
            registry=f"http://{HOST}:{registry_at}/apis/ccompat/v7",
        )
        state = {"addresses": asdict(addresses), "complete": False, "processes": {}}
        try:
            self._write(state)
            command = kafka_command(java, jars, self._folder / _LOGGING, brokers=brokers)
            self._format(places, command)
            for index, place in enumerate(places):
                name = f"kafka-{index + 1}"
                self._launch(state, name, place.port, [*command, "kafka.Kafka", str(self._folder / f"{name}.properties")], {})
            environment = registry_environment(registry_at, management)
            self._launch(state, _REGISTRY, registry_at, registry_command(java, home), environment)
            self._await_ready(addresses)
            self._write(state | {"complete": True})
        except BaseException:
            self._end_children()
            raise
        return addresses

    def _claim_folder(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for name in _NAMES:
            if (self._folder / name).exists():
                raise StackError(f"{self._folder / name} exists and does not belong to a stack: name another folder")

    def _continue(self, state: dict[str, Any]) -> StackAddresses:
        """Start what does not run of a stack that ran before."""
        addresses = StackAddresses(**state["addresses"])
        try:
            for name, entry in state["processes"].items():
                if not is_running(entry["pid"], entry["created"]):
                    self._launch_again(state, name)
            self._await_ready(addresses)
        except BaseException:
            self._end_children()
            raise
        return addresses

    def status(self) -> StackAddresses | None:
        """Where the stack is, if all of its processes run."""
        state = self._read()
        if state is None or not state["processes"]:
            return None
        if not all(is_running(entry["pid"], entry["created"]) for entry in state["processes"].values()):
            return None
        return StackAddresses(**state["addresses"])

    def is_kept(self) -> bool:
        """Whether the folder holds the data of a stack, up or not."""
        state = self._read()
        return state is not None and bool(state.get("complete"))

    def processes(self) -> dict[str, int]:
        """Process ids by name, such as kafka-1 and registry."""
        state = self._read() or {"processes": {}}
        return {name: int(entry["pid"]) for name, entry in state["processes"].items()}

    def kill(self, name: str) -> None:
        """End one of the stack's processes at once, as a power cut would; what it had on disk stays."""
        process = self._process(name)
        end([(process.pid, process.create_time())], by_force=True)
        self._reap()

    def pause(self, name: str) -> None:
        """Stop one of the stack's processes where it is (SIGSTOP)."""
        self._process(name).suspend()

    def resume(self, name: str) -> None:
        """Let a process that was paused go on (SIGCONT)."""
        self._process(name).resume()

    def restart(self, name: str) -> None:
        """Start one of the stack's processes that has ended again, with the data and ports it had. Does not wait until it answers."""
        state = self._state()
        entry = state["processes"].get(name)
        if entry is None:
            raise StackError(f"the stack has no process {name!r}; it has {', '.join(state['processes'])}")
        if is_running(entry["pid"], entry["created"]):
            raise StackError(f"{name} runs already (process {entry['pid']})")
        self._launch_again(state, name)

    def await_ready(self) -> None:
        """Wait until all brokers and the registry answer."""
        self._await_ready(StackAddresses(**self._state()["addresses"]))

    def _process(self, name: str) -> psutil.Process:
        entry = self._state()["processes"].get(name)
        if entry is None or not is_running(entry["pid"], entry["created"]):
            raise StackError(f"no process {name!r} of the stack in {self._folder} runs")
        return psutil.Process(entry["pid"])

    def _read(self) -> dict[str, Any] | None:
        try:
            state: dict[str, Any] = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return state

    def _state(self) -> dict[str, Any]:
        state = self._read()
        if state is None:
            raise StackError(f"no stack is up in {self._folder}")
        return state

    def _reap(self) -> None:
        self._children = {name: child for name, child in self._children.items() if child.poll() is None}

    def stop(self) -> bool:
        """End the stack's processes and keep their data, which the next `up` continues with; says whether there is a stack."""
        state = self._read()
        if state is None:
            return False
        end((entry["pid"], entry["created"]) for entry in state["processes"].values())
        self._end_children()
        return True

    def down(self) -> bool:
        """End the stack's processes and remove what it has in its folder; says whether there was a stack."""
        if not self.stop():
            return False
        for name in _NAMES:
            shutil.rmtree(self._folder / name, ignore_errors=True)
            for file in (f"{name}.properties", f"{name}.log"):
                (self._folder / file).unlink(missing_ok=True)
        (self._folder / _LOGGING).unlink(missing_ok=True)
        self._file.unlink()
        try:
            self._folder.rmdir()
        except OSError:
            # It holds what others put there.
            pass
        return True

    def _end_children(self) -> None:
        children = [child for child in self._children.values() if child.poll() is None]
        end((child.pid, psutil.Process(child.pid).create_time()) for child in children)
        for child in children:
            child.wait(_REAP_TIMEOUT_S)
        self._children.clear()

    def _format(self, places: Sequence[BrokerPlace], command: list[str]) -> None:
        """Write the brokers' settings, and prepare their folders with them."""
        with as_file(files("tutelage.deploy.local").joinpath("log4j.properties")) as logging:
            shutil.copy(logging, self._folder / _LOGGING)
        cluster = uuid.uuid4().hex[:22]
        for index in range(len(places)):
            data = self._folder / f"kafka-{index + 1}"
            settings = data.with_suffix(".properties")
            settings.write_text(broker_properties(index, places, data), encoding="utf-8")
            done = subprocess.run(
                [*command, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(settings)],
                capture_output=True, text=True, timeout=READY_TIMEOUT_S, check=False,
            )  # fmt: skip
            if done.returncode:
                raise StackError(f"Kafka could not format {data}: {(done.stderr or done.stdout).strip()[-300:]}")

    def _launch_again(self, state: dict[str, Any], name: str) -> None:
        self._reap()
        entry = state["processes"][name]
        if not is_free(entry["port"], within_s=_PORT_TIMEOUT_S):
            raise StackError(
                f"port {entry['port']}, where clients know {name} of the stack in {self._folder}, is taken by another program: "
                "end that program, or remove the stack with `tutelage stack down`"
            )
        self._launch(state, name, entry["port"], entry["command"], entry["environment"])

    def _launch(
        self, state: dict[str, Any], name: str, port: int, command: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        """Start a process, and keep in the stack's file which one it is and how it is started again."""
        try:
            with (self._folder / f"{name}.log").open("ab") as output:
                child = subprocess.Popen(
                    command,
                    cwd=self._folder,
                    env={**os.environ, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise StackError(f"{name} of the stack in {self._folder} could not be started: {error}") from error
        self._children[name] = child
        state["processes"][name] = {
            "pid": child.pid,
            "created": psutil.Process(child.pid).create_time(),
            "port": port,
            "command": list(command),
            "environment": dict(environment),
        }
        self._write(state)

    def _write(self, state: Mapping[str, Any]) -> None:
        # In one step: what can no longer be read would be taken for no stack.
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(state, indent=1), encoding="utf-8")
        os.replace(new, self._file)

    def _await_ready(self, addresses: StackAddresses) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        waiting: dict[str, Callable[[], bool]] = {
            _REGISTRY: lambda: registry_answers(addresses.registry),
            _FIRST_BROKER: lambda: brokers_answer(addresses.bootstrap_servers),
        }
        while waiting:
            for name, child in self._children.items():
                if child.poll() is not None:
                    raise StackError(f"{name} ended at once with code {child.returncode}: {self._said(name)}")
            waiting = {name: answers for name, answers in waiting.items() if not answers()}
            if waiting and time.monotonic() > deadline:
                who = " and ".join("the registry" if name == _REGISTRY else "the brokers" for name in waiting)
                raise StackError(f"{who} did not answer within {READY_TIMEOUT_S:.0f} s: {self._said(next(iter(waiting)))}")

    def _said(self, name: str) -> str:
        log = self._folder / f"{name}.log"
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"{lines[-1] if lines else 'it said nothing'} (all of it: {log})"


def _planned(
    brokers: int,
    kafka_port: int | None,
    registry_port: int | None,
    proxied: Callable[[list[int]], list[int]] | None,
) -> tuple[list[BrokerPlace], int, int]:
    """Where the brokers of a new stack listen, and the registry's two ports."""
    for port in (kafka_port, registry_port):
        if port is not None and not is_free(port):
            raise StackError(f"port {port} is taken by another program; name another port, or 0 for a free one")
    free = free_ports(3 * brokers + 2)
    ports = [kafka_port if index == 0 and kafka_port else free.pop() for index in range(brokers)]
    advertised = ports if proxied is None else proxied(ports)
    places = [
        BrokerPlace(port=port, controller=free.pop(), advertised=told, internal=free.pop() if proxied else None)
        for port, told in zip(ports, advertised, strict=True)
    ]
    return places, registry_port or free.pop(), free.pop()
