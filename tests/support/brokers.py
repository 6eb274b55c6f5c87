"""A broker of any properties as a process: for what the local stack does not run (listeners with TLS, a container's environment)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import NoReturn

import pytest

from tutelage.deploy.local import StackError
from tutelage.deploy.local.programs import find_java, kafka_jars

HOST = "127.0.0.1"
READY_TIMEOUT_S = 90.0


def cannot_run(error: StackError) -> NoReturn:
    """Skip what needs a broker where there is no Java or Maven; in CI that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"CI must run this: {error}")
    pytest.skip(str(error))


def listens(port: int) -> bool:
    """Whether somebody listens on a port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


class Broker:
    """One Kafka process. `started` returns when all of its client ports are open; `end` ends it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self,
        properties: Mapping[str, object],
        ports: Sequence[int],
        *,
        format_flags: Sequence[str] = (),
        jvm: Sequence[str] = (),
    ) -> None:
        """Format its data and start it; AssertionError with what it said if it does not listen."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "server.properties"
        file.write_text(
            "".join(f"{key}={value}\n" for key, value in properties.items()), encoding="utf-8"
        )
        with as_file(files("tutelage.deploy.local").joinpath("log4j.properties")) as logging:
            shutil.copy(logging, self.folder / "log4j.properties")
        launch = [
            find_java(),
            "-Xmx512m",
            "-XX:+UseSerialGC",
            *jvm,
            f"-Dlog4j.configuration=file:{self.folder}/log4j.properties",
        ]
        launch += ["-cp", f"{kafka_jars()}/*"]
        cluster = uuid.uuid4().hex[:22]
        done = subprocess.run(
            [*launch, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(file), *format_flags],
            capture_output=True, text=True, timeout=READY_TIMEOUT_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr or done.stdout
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [*launch, "kafka.Kafka", str(file)],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not all(listens(port) for port in ports):
            assert self._process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.2)

    @property
    def log(self) -> Path:
        """What it says."""
        return self.folder / "broker.log"

    def said(self) -> str:
        """The end of what it said."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:])

    def end(self) -> None:
        """End it, if it was started."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(20)
