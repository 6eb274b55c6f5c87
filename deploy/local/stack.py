"""A broker (or three) and a registry as processes of this machine: started until they answer, stopped by the ids that were started.

Everything a stack has lies in its folder: configuration, data, logs, and `stack.json` with addresses and process ids. It is for trying
and testing: `down` ends the processes and removes the folder, and with it the topics.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from http import HTTPStatus
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import psutil

from tutelage.deploy.local.programs import StackError, find_java, kafka_jars, registry_home

READY_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 15.0
HOST = "127.0.0.1"


@dataclass(frozen=True, kw_only=True, slots=True)
class StackAddresses:
    """Where a stack that is up can be reached."""

    bootstrap_servers: str
    registry: str


class Stack:
    """One local stack, in one folder.

    Guarantee: `up` returns when broker and registry answer, or raises StackError with what they said and leaves nothing running;
    `down` ends exactly the processes that `up` started.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "stack.json"
        # Processes this object started itself, to be reaped when they end.
        self._children: list[subprocess.Popen[bytes]] = []
        self._launches: dict[str, tuple[list[str], dict[str, str]]] = {}

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
        """Start the stack, unless it is up. Ports that are not given are free ones.

        `proxied` is given the brokers' ports and returns those they are to advertise to clients: a proxy's, that leads to them.
        """
        running = self.status()
        if running is not None:
            return running
        if brokers not in (1, 3):
            raise StackError(f"a stack has 1 or 3 brokers, not {brokers}")
        java, jars, registry = find_java(), kafka_jars(), registry_home()
        self.down()
        self._folder.mkdir(parents=True, exist_ok=True)
        wanted = [kafka_port, registry_port]
        for port in wanted:
            if port is not None and not _is_free(port):
                raise StackError(f"port {port} is taken by another program; name another port, or 0 for a free one")
        free = free_ports(3 * brokers + 2)
        ports = [(kafka_port if index == 0 and kafka_port else free.pop(), free.pop()) for index in range(brokers)]
        registry_at = registry_port or free.pop()
        advertised = [port for port, _ in ports] if proxied is None else proxied([port for port, _ in ports])
        addresses = StackAddresses(
            bootstrap_servers=",".join(f"{HOST}:{port}" for port in advertised),
            registry=f"http://{HOST}:{registry_at}/apis/ccompat/v7",
        )
        processes: dict[str, subprocess.Popen[bytes]] = {}
        try:
            cluster = uuid.uuid4().hex[:22]
            for index in range(brokers):
                processes[f"kafka-{index + 1}"] = self._start_broker(
                    index, ports, advertised[index], free.pop() if proxied else None, cluster, java, jars
                )
            processes["registry"] = self._start_registry(registry_at, free.pop(), java, registry)
            self._write(addresses, processes)
            self._await_ready(addresses, processes)
        except BaseException:
            self._end_children()
            raise
        return addresses

    def status(self) -> StackAddresses | None:
        """Where the stack is, if all of its processes run."""
        try:
            state = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not all(_is_running(entry["pid"], entry["created"]) for entry in state["processes"].values()):
            return None
        return StackAddresses(**state["addresses"])

    def processes(self) -> dict[str, int]:
        """Process ids by name, such as kafka-1 and registry."""
        try:
            state = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {name: int(entry["pid"]) for name, entry in state["processes"].items()}

    def kill(self, name: str) -> None:
        """End one of the stack's processes at once, as a power cut would; what it had on disk stays."""
        process = self._process(name)
        process.kill()
        process.wait(_STOP_TIMEOUT_S)
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
        if _is_running(entry["pid"], entry["created"]):
            raise StackError(f"{name} runs already (process {entry['pid']})")
        child = self._launch(name, entry["command"], entry["environment"])
        state["processes"][name] |= {"pid": child.pid, "created": psutil.Process(child.pid).create_time()}
        self._file.write_text(json.dumps(state, indent=1), encoding="utf-8")

    def await_ready(self) -> None:
        """Wait until all brokers and the registry answer."""
        state = self._state()
        addresses = StackAddresses(**state["addresses"])
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not (_broker_answers(addresses) and _registry_answers(addresses)):
            if time.monotonic() > deadline:
                raise StackError(f"the stack in {self._folder} did not answer within {READY_TIMEOUT_S:.0f} s")
            time.sleep(0.2)

    def _process(self, name: str) -> psutil.Process:
        entry = self._state()["processes"].get(name)
        if entry is None or not _is_running(entry["pid"], entry["created"]):
            raise StackError(f"no process {name!r} of the stack in {self._folder} runs")
        return psutil.Process(entry["pid"])

    def _state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StackError(f"no stack is up in {self._folder}") from error
        return state

    def _reap(self) -> None:
        self._children = [child for child in self._children if child.poll() is None]

    def down(self) -> bool:
        """End the stack's processes and remove its folder; says whether there was anything to end."""
        try:
            state = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        for entry in state["processes"].values():
            if _is_running(entry["pid"], entry["created"]):
                # A paused one could not hear that it is to end.
                psutil.Process(entry["pid"]).resume()
            _end(entry["pid"], entry["created"])
        self._end_children()
        shutil.rmtree(self._folder, ignore_errors=True)
        return True

    def _end_children(self) -> None:
        for child in self._children:
            _end(child.pid, None)
            child.wait(_STOP_TIMEOUT_S)
        self._children.clear()

    def _start_broker(
        self,
        index: int,
        ports: list[tuple[int, int]],
        advertised: int,
        internal: int | None,
        cluster: str,
        java: str,
        jars: Path,
    ) -> subprocess.Popen[bytes]:
        name = f"kafka-{index + 1}"
        port, controller = ports[index]
        listeners = f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller}"
        advertised_at = f"PLAINTEXT://{HOST}:{advertised}"
        protocols = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
        proxied = {}
        if internal is not None:
            # What stands between clients and brokers is not to stand between brokers too.
            listeners += f",INTERNAL://{HOST}:{internal}"
            advertised_at += f",INTERNAL://{HOST}:{internal}"
            protocols += ",INTERNAL:PLAINTEXT"
            proxied = {"inter.broker.listener.name": "INTERNAL"}
        replicas = min(3, len(ports))
        settings = {
            "process.roles": "broker,controller",
            "node.id": index + 1,
            "controller.quorum.voters": ",".join(f"{n + 1}@{HOST}:{at}" for n, (_, at) in enumerate(ports)),
            "listeners": listeners,
            "advertised.listeners": advertised_at,
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": protocols,
            **proxied,
            "log.dirs": self._folder / name,
            "default.replication.factor": replicas,
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": max(1, replicas - 1),
            "min.insync.replicas": max(1, replicas - 1),
            "offsets.topic.num.partitions": 4,
            "group.initial.rebalance.delay.ms": 0,
            "auto.create.topics.enable": "false",
        }
        if len(ports) > 1:
            # A killed broker is noticed within seconds, as a test or a person expects.
            settings |= {"broker.session.timeout.ms": 3000, "replica.lag.time.max.ms": 5000}
        properties = self._folder / f"{name}.properties"
        properties.write_text("".join(f"{key}={value}\n" for key, value in settings.items()), encoding="utf-8")
        with as_file(files("tutelage.deploy.local").joinpath("log4j.properties")) as logging:
            shutil.copy(logging, self._folder / "log4j.properties")
        heap = "-Xmx512m" if len(ports) == 1 else "-Xmx384m"
        launch = [java, heap, "-XX:+UseSerialGC", f"-Dlog4j.configuration=file:{self._folder / 'log4j.properties'}"]
        launch += ["-cp", f"{jars}/*"]
        formatted = subprocess.run(
            [*launch, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)],
            capture_output=True, text=True, timeout=READY_TIMEOUT_S, check=False,
        )  # fmt: skip
        if formatted.returncode:
            raise StackError(
                f"Kafka could not format {self._folder / name}: {(formatted.stderr or formatted.stdout).strip()[-300:]}"
            )
        return self._launch(name, [*launch, "kafka.Kafka", str(properties)], {})

    def _start_registry(self, port: int, management: int, java: str, home: Path) -> subprocess.Popen[bytes]:
        environment = {
            "QUARKUS_HTTP_HOST": HOST,
            "QUARKUS_HTTP_PORT": str(port),
            "QUARKUS_MANAGEMENT_HOST": HOST,
            "QUARKUS_MANAGEMENT_PORT": str(management),
        }
        return self._launch(
            "registry", [java, "-Xmx384m", "-XX:+UseSerialGC", "-jar", str(home / "quarkus-run.jar")], environment
        )

    def _launch(self, name: str, command: list[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
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
        self._children.append(child)
        self._launches[name] = (command, dict(environment))
        return child

    def _write(self, addresses: StackAddresses, processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
        started = {
            name: {
                "pid": process.pid,
                "created": psutil.Process(process.pid).create_time(),
                "command": self._launches[name][0],
                "environment": self._launches[name][1],
            }
            for name, process in processes.items()
        }
        self._file.write_text(json.dumps({"addresses": asdict(addresses), "processes": started}, indent=1), encoding="utf-8")

    def _await_ready(self, addresses: StackAddresses, processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        waiting = {"registry": _registry_answers, **dict.fromkeys((n for n in processes if n != "registry"), _broker_answers)}
        while waiting:
            for name, process in processes.items():
                if process.poll() is not None:
                    raise StackError(f"{name} ended at once with code {process.returncode}: {self._said(name)}")
            waiting = {name: answers for name, answers in waiting.items() if not answers(addresses)}
            if waiting and time.monotonic() > deadline:
                raise StackError(
                    f"{' and '.join(waiting)} did not answer within {READY_TIMEOUT_S:.0f} s: {self._said(next(iter(waiting)))}"
                )

    def _said(self, name: str) -> str:
        log = self._folder / f"{name}.log"
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"{lines[-1] if lines else 'it said nothing'} (all of it: {log})"


def _broker_answers(addresses: StackAddresses) -> bool:
    import logging

    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    quiet = logging.getLogger("tutelage.stack_probe")
    quiet.propagate = False
    quiet.addHandler(logging.NullHandler())
    admin = AdminClient({"bootstrap.servers": addresses.bootstrap_servers}, logger=quiet)
    try:
        found = admin.list_topics(timeout=1.0)
    except KafkaException:
        return False
    return len(found.brokers) == len(addresses.bootstrap_servers.split(","))


def _registry_answers(addresses: StackAddresses) -> bool:
    try:
        with urllib.request.urlopen(f"{addresses.registry}/subjects", timeout=1.0) as response:
            return bool(response.status == HTTPStatus.OK)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        time.sleep(0.1)
        return False


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on, held all at once so that they differ."""
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind((HOST, 0))
        return [int(each.getsockname()[1]) for each in held]
    finally:
        for each in held:
            each.close()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _is_running(pid: int, created: float) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - created) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _end(pid: int, created: float | None) -> None:
    """End the process with that id, if it is still the one that was started."""
    if created is not None and not _is_running(pid, created):
        return
    try:
        process = psutil.Process(pid)
        process.terminate()
        process.wait(_STOP_TIMEOUT_S)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait(_STOP_TIMEOUT_S)
    except psutil.NoSuchProcess:
        return
