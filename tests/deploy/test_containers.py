"""The compose file in a real container engine: the toy to its end, what a container may do, and killed ones that go on.

Needs `docker compose` and the image; `make test-containers` builds it. What needs no engine is in `test_compose.py`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.commands import TOY_DIGEST, invoke

from tutelage.deploy.local.ports import free_ports

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
IMAGE = "tutelage:0.1.0"
LESSON = ROOT / "tests" / "kafka" / "slow_lesson.py"


def slow_lesson(topic: str) -> dict[str, Any]:
    """The lesson of the process tests instead of the toy, at a pace that leaves time to kill somebody."""
    teacher = {
        "environment": {"LESSON_SECONDS": "0.1"},
        "command": ["teach", "/data/slow_lesson.py:lesson", "--topic", topic, "--run-id", topic],
        "volumes": [f"{LESSON}:/data/slow_lesson.py:ro"],
    }
    student = {"command": ["learn", f"topic:{topic}", "--batch-size", "32", "--json"]}
    return {
        "services": {
            name: {**service, "healthcheck": {"disable": True}}
            for name, service in (("teacher1", teacher), ("student", student))
        }
    }


def fails(*command: str) -> bool:
    """Whether a command ends with an error."""
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode != 0


def why_not() -> str | None:
    """What is missing here to run containers."""
    if shutil.which("docker") is None or fails("docker", "info"):
        return "needs a container engine (docker)"
    if fails("docker", "compose", "version"):
        return "needs docker's compose plugin"
    if fails("docker", "image", "inspect", IMAGE):
        return f"needs the image {IMAGE}: make test-containers builds it"
    return None


class Containers:
    """One project of the compose file, with ports of its own."""

    def __init__(self) -> None:
        self.kafka, self.registry = free_ports(2)
        self._environment = {
            **os.environ,
            "TUTELAGE_KAFKA_PORT": str(self.kafka),
            "TUTELAGE_REGISTRY_PORT": str(self.registry),
        }
        project, file = f"tutelage-test-{os.getpid()}", str(ROOT / "deploy" / "docker-compose.yml")
        self._command = ["docker", "compose", "-p", project, "-f", file]

    def compose(
        self, *arguments: str, timeout_s: float = 240, overlay: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `docker compose` with these arguments."""
        command = [
            *self._command,
            *(["-f", str(overlay)] if overlay is not None else []),
            *arguments,
        ]
        return subprocess.run(
            command,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def done(self, *arguments: str, overlay: Path | None = None) -> str:
        """The same, to its good end; what it printed."""
        found = self.compose(*arguments, overlay=overlay)
        assert found.returncode == 0, (arguments, found.stdout[-3000:], found.stderr[-3000:])
        return found.stdout

    def log(self, service: str) -> str:
        """What a service's container said."""
        return self.done("logs", "--no-log-prefix", "--no-color", service)

    def await_log(self, service: str, words: str) -> None:
        """Wait until it said this."""
        deadline = time.monotonic() + 120
        while words not in self.log(service):
            assert time.monotonic() < deadline, (
                f"{service} never says {words!r}: {self.log(service)[-2000:]}"
            )
            time.sleep(0.3)


@pytest.fixture(scope="module")
def containers() -> Iterator[Containers]:
    """The project, with broker and registry up and healthy."""
    missing = why_not()
    if missing is not None:
        pytest.skip(missing)
    made = Containers()
    try:
        made.done("up", "--detach", "--wait", "--no-build", "kafka", "registry")
        yield made
    finally:
        made.compose("--profile", "*", "down", "--volumes", "--timeout", "5")


def test_up_runs_the_toy_to_its_end_and_a_second_time(containers: Containers) -> None:
    for attempt in range(2):
        containers.done(
            "up",
            "--no-build",
            "--no-deps",
            "--exit-code-from",
            "student",
            "teacher1",
            "teacher2",
            "student",
        )
        assert containers.log("student").count(f"digest {TOY_DIGEST}") == attempt + 1
    assert "holds this run already, and all of it" in containers.log("teacher1")


def test_this_machine_reaches_what_is_published(containers: Containers) -> None:
    flags = (
        "-b",
        f"localhost:{containers.kafka}",
        "--registry",
        f"http://localhost:{containers.registry}/apis/ccompat/v7",
    )
    result = invoke(
        "learn", "topic:teacher1", "topic:teacher2", "--merge", "result=mean", "--json", *flags
    )
    assert (result.code, json.loads(result.out)["digest"]) == (0, TOY_DIGEST), result.err


def test_a_container_may_write_nothing_but_tmp_and_has_no_rights(containers: Containers) -> None:
    script = "id -u; grep CapEff /proc/self/status; for folder in /tmp / /data /opt/tutelage; do touch $folder/a && echo $folder; done; true"
    said = containers.done(
        "run", "--rm", "--no-deps", "--entrypoint", "sh", "student", "-c", script
    ).split()
    assert said == ["10001", "CapEff:", "0000000000000000", "/tmp"]


def test_volumes_belong_to_who_writes_them(containers: Containers) -> None:
    for service in ("digits", "steady-student"):
        containers.done(
            "run",
            "--rm",
            "--no-deps",
            "--entrypoint",
            "sh",
            service,
            "-c",
            "touch /data/a && rm /data/a",
        )


@pytest.mark.parametrize("killed", ["teacher1", "kafka"])
def test_what_is_killed_and_started_again_goes_on(
    containers: Containers, killed: str, tmp_path: Path
) -> None:
    overlay = tmp_path / "slow.json"
    overlay.write_text(json.dumps(slow_lesson(f"without-{killed}")))
    containers.done(
        "up", "--no-build", "--no-deps", "--detach", "teacher1", "student", overlay=overlay
    )
    containers.await_log("teacher1", "teaching to topic")
    containers.done("kill", "--signal", "KILL", killed, overlay=overlay)
    containers.done("up", "--no-build", "--no-deps", "--detach", killed, overlay=overlay)
    containers.await_log("student", '"digest"')
    assert re.search(r'"rows": 2000\b', containers.log("student"))
    assert invoke("teach", f"{LESSON}:lesson", "--out", str(tmp_path / "whole.avro")).code == 0
    offline = json.loads(
        invoke("learn", str(tmp_path / "whole.avro"), "--json", "--batch-size", "32").out
    )
    assert offline["digest"] in containers.log("student")
