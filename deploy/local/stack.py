"""A broker (or three) and a registry as processes of this machine: started until they answer, stopped by the ids that were started.

Everything a stack has lies in its folder: settings, topics, schemas, logs, and `stack.json` with ports and process ids. It is for
trying and testing. `stop` ends the processes and keeps their data, and the next `up` continues with it; `down` removes the data too.
"""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path

import psutil

from tutelage.deploy.local.folder import StackFolder
from tutelage.deploy.local.launches import (
    REGISTRY,
    broker_command,
    broker_name,
    broker_properties,
    is_launched_as,
    kafka_command,
    registry_command,
    registry_environment,
)
from tutelage.deploy.local.ports import is_free, planned_ports
from tutelage.deploy.local.processes import belongs_to, end, is_running
from tutelage.deploy.local.programs import StackError, find_java, kafka_jars, registry_home
from tutelage.deploy.local.stack_file import (
    NAME,
    StackAddresses,
    StackState,
    Started,
    read_state,
    write_state,
)
from tutelage.transport.probes import brokers_answer, registry_answers

READY_TIMEOUT_S = 120.0
_REAP_TIMEOUT_S = 15.0
# The system closes the sockets of a process that was killed a moment after it.
_PORT_TIMEOUT_S = 5.0
_LOGGING = "log4j.properties"
_NAMES = (*(broker_name(index) for index in range(3)), REGISTRY)


class Stack:
    """One local stack, in one folder.

    Guarantee: `up` returns when broker and registry answer, or raises StackError with what they said and leaves nothing running. Topics
    and schemas, with their ids, outlive every process until `down`. `stop` and `down` end exactly the processes that `up` started, and
    `down` removes exactly the files that the stack wrote, whatever somebody wrote into `stack.json` or put into the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = StackFolder(folder.absolute())
        # Processes this object started itself, to be reaped when they end.
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __repr__(self) -> str:
        return f"Stack({str(self.folder)!r})"

    @property
    def folder(self) -> Path:
        """Where everything of the stack lies."""
        return self._folder.path

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
            StackError: Java, Maven or a port is missing, a process did not answer, or the folder is neither new nor empty nor a
                stack's of this user.
        """
        running = self.status()
        if running is not None:
            return running
        if brokers not in (1, 3):
            raise StackError(f"a stack has 1 or 3 brokers, not {brokers}")
        state = read_state(self._folder)
        if state is not None and state.complete:
            return self._continue(state)
        # What a start left that was cut off.
        self.down()
        self._folder.claim()
        programs = _Programs.found()
        places, registry = planned_ports(brokers, kafka_port, registry_port, proxied)
        state = StackState(folder=self.folder, brokers=places, registry=registry)
        try:
            write_state(self._folder, state)
            self._format(state, programs)
            for name in state.names:
                state = self._launch(state, name, programs)
            self._await_ready(state)
            write_state(self._folder, replace(state, complete=True))
        except BaseException:
            self._end_children()
            raise
        return state.addresses

    def _continue(self, state: StackState) -> StackAddresses:
        """Start what does not run of a stack that ran before."""
        ended = [name for name in state.names if not self._runs(state, name)]
        try:
            self._await_ready(self._launch_again(state, ended))
        except BaseException:
            self._end_children()
            raise
        return state.addresses

    def status(self) -> StackAddresses | None:
        """Where the stack is, if all of its processes run."""
        state = read_state(self._folder)
        if state is None or not all(self._runs(state, name) for name in state.names):
            return None
        return state.addresses

    def is_kept(self) -> bool:
        """Whether the folder holds the data of a stack, up or not."""
        state = read_state(self._folder)
        return state is not None and state.complete

    def processes(self) -> dict[str, int]:
        """Process ids by name, such as kafka-1 and registry."""
        state = read_state(self._folder)
        return {} if state is None else {name: each.pid for name, each in state.started.items()}

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
        if name not in state.names:
            raise StackError(f"the stack has no process {name!r}; it has {', '.join(state.names)}")
        if self._runs(state, name):
            raise StackError(f"{name} runs already (process {state.started[name].pid})")
        self._launch_again(state, [name])

    def await_ready(self) -> None:
        """Wait until all brokers and the registry answer."""
        self._await_ready(self._state())

    def _process(self, name: str) -> psutil.Process:
        state = self._state()
        if not self._runs(state, name):
            raise StackError(f"no process {name!r} of the stack in {self.folder} runs")
        return psutil.Process(state.started[name].pid)

    def _runs(self, state: StackState, name: str) -> bool:
        """Whether a process of the stack runs; StackError if `stack.json` names one that is not the stack's."""
        each = state.started.get(name)
        if each is None or not is_running(each.pid, each.created):
            return False
        if not belongs_to(each.pid, self.folder, partial(is_launched_as, name)):
            raise StackError(
                f"{self.folder / NAME} says that process {each.pid} is {name} of this stack, and it is another program. Nothing was "
                "started, ended or removed: find out who wrote that, and delete the file if the stack is no longer needed"
            )
        return True

    def _state(self) -> StackState:
        state = read_state(self._folder)
        if state is None:
            raise StackError(f"no stack is up in {self.folder}")
        return state

    def _reap(self) -> None:
        self._children = {
            name: child for name, child in self._children.items() if child.poll() is None
        }

    def stop(self) -> bool:
        """End the stack's processes and keep their data, which the next `up` continues with; says whether there is a stack."""
        state = read_state(self._folder)
        if state is None:
            return False
        running = [state.started[name] for name in state.names if self._runs(state, name)]
        end((each.pid, each.created) for each in running)
        self._end_children()
        return True

    def down(self) -> bool:
        """End the stack's processes and remove what it wrote into its folder; says whether there was a stack.

        What others put there stays, and the folder with it.
        """
        if not self.stop():
            return False
        for name in _NAMES:
            self._folder.remove_data(name, registry=name == REGISTRY)
            for file in (f"{name}.properties", f"{name}.log"):
                self._folder.remove_file(file)
        for file in (_LOGGING, f"{NAME}.new", NAME):
            self._folder.remove_file(file)
        self._folder.remove_if_empty()
        return True

    def _end_children(self) -> None:
        children = [child for child in self._children.values() if child.poll() is None]
        end((child.pid, psutil.Process(child.pid).create_time()) for child in children)
        for child in children:
            child.wait(_REAP_TIMEOUT_S)
        self._children.clear()

    def _format(self, state: StackState, programs: _Programs) -> None:
        """Prepare the brokers' folders with their settings."""
        cluster = uuid.uuid4().hex[:22]
        for index in range(len(state.brokers)):
            command = [
                *self._kafka(state, programs),
                "kafka.tools.StorageTool",
                "format",
                "-t",
                cluster,
            ]
            settings = self._configure(state, index)
            done = subprocess.run(
                [*command, "-c", str(settings)],
                capture_output=True,
                text=True,
                timeout=READY_TIMEOUT_S,
                check=False,
            )
            if done.returncode:
                raise StackError(
                    f"Kafka could not format {settings.with_suffix('')}: {(done.stderr or done.stdout).strip()[-300:]}"
                )

    def _kafka(self, state: StackState, programs: _Programs) -> list[str]:
        with as_file(files("tutelage.deploy.local").joinpath(_LOGGING)) as logging:
            self._folder.write(_LOGGING, logging.read_text(encoding="utf-8"))
        return kafka_command(
            programs.java, programs.kafka, self.folder / _LOGGING, brokers=len(state.brokers)
        )

    def _configure(self, state: StackState, index: int) -> Path:
        """Write a broker's settings, at each start anew: those that lie there may have been changed."""
        data = self.folder / broker_name(index)
        self._folder.write(f"{data.name}.properties", broker_properties(index, state.brokers, data))
        return data.with_suffix(".properties")

    def _launch_again(self, state: StackState, names: Sequence[str]) -> StackState:
        self._reap()
        for name in names:
            if not is_free(state.port(name), within_s=_PORT_TIMEOUT_S):
                raise StackError(
                    f"port {state.port(name)}, where clients know {name} of the stack in {self.folder}, is taken by another program: "
                    "end that program, or remove the stack with `tutelage stack down`"
                )
        programs = _Programs.found()
        for name in names:
            state = self._launch(state, name, programs)
        return state

    def _launch(self, state: StackState, name: str, programs: _Programs) -> StackState:
        """Start a process, and keep in the stack's file which one it is."""
        self._folder.check_data(name)
        environment = dict(os.environ)
        if name == REGISTRY:
            command = registry_command(programs.java, programs.registry)
            environment |= registry_environment(state.registry)
        else:
            settings = self._configure(state, state.names.index(name))
            command = broker_command(self._kafka(state, programs), settings)
        try:
            with closing(os.fdopen(self._folder.open_log(f"{name}.log"), "ab")) as output:
                child = subprocess.Popen(
                    command,
                    cwd=self.folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise StackError(
                f"{name} of the stack in {self.folder} could not be started: {error}"
            ) from error
        self._children[name] = child
        started = Started(pid=child.pid, created=psutil.Process(child.pid).create_time())
        state = replace(state, started={**state.started, name: started})
        write_state(self._folder, state)
        return state

    def _await_ready(self, state: StackState) -> None:
        addresses = state.addresses
        deadline = time.monotonic() + READY_TIMEOUT_S
        waiting: dict[str, Callable[[], bool]] = {
            REGISTRY: lambda: registry_answers(addresses.registry),
            broker_name(0): lambda: brokers_answer(addresses.bootstrap_servers),
        }
        while waiting:
            for name, child in self._children.items():
                if child.poll() is not None:
                    raise StackError(
                        f"{name} ended at once with code {child.returncode}: {self._said(name)}"
                    )
            waiting = {name: answers for name, answers in waiting.items() if not answers()}
            if waiting and time.monotonic() > deadline:
                who = " and ".join(
                    "the registry" if name == REGISTRY else "the brokers" for name in waiting
                )
                raise StackError(
                    f"{who} did not answer within {READY_TIMEOUT_S:.0f} s: {self._said(next(iter(waiting)))}"
                )

    def _said(self, name: str) -> str:
        log = self.folder / f"{name}.log"
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"{lines[-1] if lines else 'it said nothing'} (all of it: {log})"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Programs:
    """What the processes are started from: found on this machine at each start, and not kept."""

    java: str
    kafka: Path
    registry: Path

    @classmethod
    def found(cls) -> _Programs:
        return cls(java=find_java(), kafka=kafka_jars(), registry=registry_home())
