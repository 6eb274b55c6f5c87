"""A broker, or three, and a registry as processes of this machine, for trials and tests.

Everything of a stack is in its folder: settings, topics, schemas, logs, and `stack.json` with the
ports and process ids. `stop` ends the processes and keeps their data, with which the next `up`
continues. `down` removes the data, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil

from tutelage.deploy.local.command_lines import REGISTRY, broker_name, is_launched_as
from tutelage.deploy.local.folder import StackFolder
from tutelage.deploy.local.launcher import LOGGING, Launcher, Programs
from tutelage.deploy.local.ports import is_free, plan_ports
from tutelage.deploy.local.processes import belongs_to, end, is_running
from tutelage.deploy.local.programs import StackError
from tutelage.deploy.local.stack_file import (
    NAME,
    StackAddresses,
    StackState,
    read_state,
    write_state,
)
from tutelage.transport.probes import brokers_answer, registry_answers

READY_TIMEOUT_S = 120.0
# The system closes the sockets of a killed process a moment after its end.
_PORT_TIMEOUT_S = 5.0
_NAMES = (*(broker_name(index) for index in range(3)), REGISTRY)


class Stack:
    """One local stack, in one folder.

    Guarantee: `up` returns when the broker and the registry answer, or raises StackError with their
    last message and leaves nothing running. Topics and schemas, with their ids, outlive every
    process until `down`. `stop` and `down` end exactly the processes that `up` started, and `down`
    removes exactly the files that the stack wrote, whatever others wrote into `stack.json` or put
    into the folder.

    Args:
        folder: The stack's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = StackFolder(folder.absolute())
        self._launcher = Launcher(self._folder)

    def __repr__(self) -> str:
        return f"Stack({str(self.folder)!r})"

    @property
    def folder(self) -> Path:
        """The folder with everything of the stack."""
        return self._folder.path

    def up(
        self,
        *,
        brokers: int = 1,
        kafka_port: int | None = None,
        registry_port: int | None = None,
        proxied: Callable[[list[int]], list[int]] | None = None,
    ) -> StackAddresses:
        """Start the stack, unless it is up.

        A stack that was stopped, or whose processes ended, continues with its data and its ports.

        Args:
            brokers: How many brokers a new stack has: 1 or 3.
            kafka_port: The port of a new stack's first broker. If not given, a free one.
            registry_port: The port of a new stack's registry. If not given, a free one.
            proxied: Given the brokers' ports, returns the ports that the brokers advertise to
                clients: those of proxies that lead to the brokers.

        Returns:
            The addresses of the stack.

        Raises:
            StackError: Java, Maven or a port is missing, a process did not answer, or the folder is
                neither new nor empty nor that of a stack of this user.
        """
        running = self.status()
        if running is not None:
            return running
        if brokers not in (1, 3):
            raise StackError(f"a stack has 1 or 3 brokers, not {brokers}")
        state = read_state(self._folder)
        if state is not None and state.complete:
            return self._continue(state)
        # Remove what is left of a start that was interrupted.
        self.down()
        self._folder.claim()
        programs = Programs.find()
        places, registry = plan_ports(brokers, kafka_port, registry_port, proxied)
        state = StackState(folder=self.folder, brokers=places, registry=registry)
        try:
            write_state(self._folder, state)
            self._launcher.format_brokers(state, programs)
            for name in state.names:
                state = self._launcher.launch(state, name, programs)
            self._await_ready(state)
            write_state(self._folder, replace(state, complete=True))
        except BaseException:
            self._launcher.end_all()
            raise
        return state.addresses

    def _continue(self, state: StackState) -> StackAddresses:
        """Start the processes of an earlier stack that do not run."""
        ended = [name for name in state.names if not self._runs(state, name)]
        try:
            self._await_ready(self._launch_again(state, ended))
        except BaseException:
            self._launcher.end_all()
            raise
        return state.addresses

    def status(self) -> StackAddresses | None:
        """The addresses of the stack if all of its processes run, else None."""
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
        """End one process at once, as a power cut would. What it had written to disk stays."""
        process = self._process(name)
        end([(process.pid, process.create_time())], by_force=True)
        self._launcher.reap()

    def pause(self, name: str) -> None:
        """Pause one process (SIGSTOP)."""
        self._process(name).suspend()

    def resume(self, name: str) -> None:
        """Let a paused process continue (SIGCONT)."""
        self._process(name).resume()

    def restart(self, name: str) -> None:
        """Start a process that has ended again, with its data and ports. Does not wait for it."""
        state = self._state()
        if name not in state.names:
            raise StackError(f"the stack has no process {name!r}; it has {', '.join(state.names)}")
        if self._runs(state, name):
            raise StackError(f"{name} runs already (process {state.started[name].pid})")
        self._launch_again(state, [name])

    def await_ready(self) -> None:
        """Wait until all brokers and the registry answer."""
        self._await_ready(self._state())

    def stop(self) -> bool:
        """End the processes and keep their data for the next `up`.

        Returns:
            Whether there is a stack.
        """
        state = read_state(self._folder)
        if state is None:
            return False
        running = [state.started[name] for name in state.names if self._runs(state, name)]
        end((each.pid, each.created) for each in running)
        self._launcher.end_all()
        return True

    def down(self) -> bool:
        """End the processes and remove what they and the stack wrote into the folder.

        Files of others stay, and the folder with them.

        Returns:
            Whether there was a stack.
        """
        if not self.stop():
            return False
        for name in _NAMES:
            self._folder.remove_data(name, registry=name == REGISTRY)
            for file in (f"{name}.properties", f"{name}.log"):
                self._folder.remove_file(file)
        for file in (LOGGING, f"{NAME}.new", NAME):
            self._folder.remove_file(file)
        self._folder.remove_if_empty()
        return True

    def _process(self, name: str) -> psutil.Process:
        state = self._state()
        if not self._runs(state, name):
            raise StackError(f"no process {name!r} of the stack in {self.folder} runs")
        return psutil.Process(state.started[name].pid)

    def _runs(self, state: StackState, name: str) -> bool:
        """Whether a process runs. StackError if `stack.json` names one that is not the stack's."""
        each = state.started.get(name)
        if each is None or not is_running(each.pid, each.created):
            return False
        if not belongs_to(each.pid, self.folder, partial(is_launched_as, name)):
            raise StackError(
                f"{self.folder / NAME} says that process {each.pid} is {name} of this stack, and "
                "it is another program. Nothing was started, ended or removed: find out who wrote "
                "that, and delete the file if the stack is no longer needed"
            )
        return True

    def _state(self) -> StackState:
        state = read_state(self._folder)
        if state is None:
            raise StackError(f"no stack is up in {self.folder}")
        return state

    def _launch_again(self, state: StackState, names: Sequence[str]) -> StackState:
        """Start processes that have ended, on their old ports."""
        self._launcher.reap()
        for name in names:
            if not is_free(state.port(name), within_s=_PORT_TIMEOUT_S):
                raise StackError(
                    f"port {state.port(name)}, where clients know {name} of the stack in "
                    f"{self.folder}, is taken by another program: end that program, or remove the "
                    "stack with `tutelage stack down`"
                )
        programs = Programs.find()
        for name in names:
            state = self._launcher.launch(state, name, programs)
        return state

    def _await_ready(self, state: StackState) -> None:
        addresses = state.addresses
        deadline = time.monotonic() + READY_TIMEOUT_S
        waiting: dict[str, Callable[[], bool]] = {
            REGISTRY: lambda: registry_answers(addresses.registry),
            broker_name(0): lambda: brokers_answer(addresses.bootstrap_servers),
        }
        while waiting:
            self._launcher.check_running()
            waiting = {name: answers for name, answers in waiting.items() if not answers()}
            if waiting and time.monotonic() > deadline:
                silent = " and ".join(
                    "the registry" if name == REGISTRY else "the brokers" for name in waiting
                )
                log = self._launcher.last_log_line(next(iter(waiting)))
                raise StackError(f"{silent} did not answer within {READY_TIMEOUT_S:.0f} s: {log}")
