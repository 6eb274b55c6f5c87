"""Starts the processes of a stack: writes their settings and records them in `stack.json`.

Ports and folders come in, processes come out. It does not know whether they answer.
"""

from __future__ import annotations

import os
import subprocess
import uuid
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path

import psutil

from tutelage.deploy.local.command_lines import (
    REGISTRY,
    broker_command,
    broker_name,
    broker_properties,
    kafka_command,
    registry_command,
    registry_environment,
)
from tutelage.deploy.local.folder import StackFolder
from tutelage.deploy.local.processes import end
from tutelage.deploy.local.programs import StackError, find_java, kafka_jars, registry_home
from tutelage.deploy.local.stack_file import StackState, Started, write_state

LOGGING = "log4j.properties"
_FORMAT_TIMEOUT_S = 120.0
_REAP_TIMEOUT_S = 15.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Programs:
    """The programs that the processes run. They are looked up at each start and not recorded."""

    java: str
    kafka: Path
    registry: Path

    @classmethod
    def find(cls) -> Programs:
        """Find Java and the jars. Raises StackError if one is missing and cannot be fetched."""
        return cls(java=find_java(), kafka=kafka_jars(), registry=registry_home())


class Launcher:
    """Starts the processes of one stack, and reaps those that it started.

    Args:
        folder: The stack's folder.
    """

    def __init__(self, folder: StackFolder) -> None:
        self._folder = folder
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def format_brokers(self, state: StackState, programs: Programs) -> None:
        """Write the brokers' settings and prepare their data folders."""
        cluster = uuid.uuid4().hex[:22]
        for index in range(len(state.brokers)):
            settings = self._write_settings(state, index)
            command = [
                *self._kafka(state, programs),
                "kafka.tools.StorageTool",
                "format",
                *("-t", cluster),
                *("-c", str(settings)),
            ]
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_FORMAT_TIMEOUT_S, check=False
            )
            if done.returncode:
                output = (done.stderr or done.stdout).strip()[-300:]
                raise StackError(f"Kafka could not format {settings.with_suffix('')}: {output}")

    def launch(self, state: StackState, name: str, programs: Programs) -> StackState:
        """Start a process, and record its id.

        Args:
            state: The stack.
            name: The process's name.
            programs: What to run.

        Returns:
            The state with the new process, as it is in `stack.json` now.

        Raises:
            StackError: The process could not be started, or its data folder is not the stack's.
        """
        self._folder.check_data(name)
        environment = dict(os.environ)
        if name == REGISTRY:
            command = registry_command(programs.java, programs.registry)
            environment |= registry_environment(state.registry)
        else:
            settings = self._write_settings(state, state.names.index(name))
            command = broker_command(self._kafka(state, programs), settings)
        try:
            with closing(os.fdopen(self._folder.open_log(f"{name}.log"), "ab")) as output:
                child = subprocess.Popen(
                    command,
                    cwd=self._folder.path,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise StackError(
                f"{name} of the stack in {self._folder.path} could not be started: {error}"
            ) from error
        self._children[name] = child
        started = Started(pid=child.pid, created=psutil.Process(child.pid).create_time())
        state = replace(state, started={**state.started, name: started})
        write_state(self._folder, state)
        return state

    def check_running(self) -> None:
        """Raise StackError if a process that was started here has ended."""
        for name, child in self._children.items():
            if child.poll() is not None:
                raise StackError(
                    f"{name} ended at once with code {child.returncode}: {self.last_log_line(name)}"
                )

    def last_log_line(self, name: str) -> str:
        """The last line of a process's log, and where the log is."""
        log = self._folder.path / f"{name}.log"
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"{lines[-1] if lines else 'its log is empty'} (the log is {log})"

    def reap(self) -> None:
        """Forget the processes that have ended."""
        self._children = {
            name: child for name, child in self._children.items() if child.poll() is None
        }

    def end_all(self) -> None:
        """End and reap every process that was started here."""
        children = [child for child in self._children.values() if child.poll() is None]
        end((child.pid, psutil.Process(child.pid).create_time()) for child in children)
        for child in children:
            child.wait(_REAP_TIMEOUT_S)
        self._children.clear()

    def _kafka(self, state: StackState, programs: Programs) -> list[str]:
        """The beginning of a Kafka program's command. Writes the log's settings that it names."""
        with as_file(files("tutelage.deploy.local").joinpath(LOGGING)) as logging:
            self._folder.write(LOGGING, logging.read_text(encoding="utf-8"))
        return kafka_command(
            programs.java, programs.kafka, self._folder.path / LOGGING, brokers=len(state.brokers)
        )

    def _write_settings(self, state: StackState, index: int) -> Path:
        """Write a broker's settings, at each start again: others may have changed the old file."""
        data = self._folder.path / broker_name(index)
        self._folder.write(f"{data.name}.properties", broker_properties(index, state.brokers, data))
        return data.with_suffix(".properties")
