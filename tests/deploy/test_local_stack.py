"""The stack without containers: what it keeps when its processes end, and what it leaves alone."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from support.kept_stacks import keep_stack

from tutelage import KafkaSink, KafkaSource, Student, Teacher
from tutelage.deploy.local import Stack, StackError, processes
from tutelage.deploy.local.command_lines import HOST

Names = Callable[[str], str]


def asked(url: str, body: dict[str, Any] | None = None) -> Any:
    """What the registry answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.loads(response.read())


class Registered:
    """Schemas given to a registry, each with the id it got and the text it had."""

    def __init__(self, registry: str, topic_name: Names) -> None:
        self._registry = registry
        self._name = topic_name
        self._texts: dict[int, str] = {}

    def add(self) -> None:
        """Register another schema: its id must be new."""
        subject = self._name("kept")
        text = json.dumps({"type": "record", "name": subject.replace("-", "_"), "fields": []})
        id_ = asked(f"{self._registry}/subjects/{subject}/versions", {"schema": text})["id"]
        assert id_ not in self._texts
        self._texts[id_] = text

    def check(self) -> None:
        """Every id must have the text it had."""
        assert {
            id_: json.loads(asked(f"{self._registry}/schemas/ids/{id_}")["schema"])
            for id_ in self._texts
        } == {id_: json.loads(text) for id_, text in self._texts.items()}


def rows_of(kafka: dict[str, Any], topic: str) -> list[int]:
    """What a student reads from a topic."""
    student = Student(timeout_s=60)
    student.register_teacher(KafkaSource(topic, **kafka))
    with student:
        return [row for batch in student.knowledge(8) for row in batch["x"].tolist()]


@pytest.mark.kafka
def test_schemas_and_topics_outlive_the_processes_that_keep_them(
    stack: Stack, kafka: dict[str, Any], topic_name: Names
) -> None:
    topic = topic_name("kept")
    with Teacher(KafkaSink(topic, **kafka)) as teacher:
        teacher.write({"x": torch.arange(20)})
    registered = Registered(kafka["registry"], topic_name)
    addresses = stack.status()

    def registry_is_killed() -> None:
        stack.kill("registry")
        stack.restart("registry")
        stack.await_ready()

    def broker_is_killed() -> None:
        stack.kill("kafka-1")
        assert stack.up() == addresses

    def stack_is_stopped_by_command() -> None:
        command = [str(Path(sys.executable).parent / "tutelage"), "stack"]
        flags = ["--folder", str(stack.folder)]
        subprocess.run([*command, "stop", *flags], check=True, timeout=120)
        status = subprocess.run(
            [*command, "status", *flags], capture_output=True, text=True, timeout=120, check=False
        )
        assert (status.returncode, status.stdout) == (1, "")
        assert "`tutelage stack up` continues with it" in status.stderr
        assert stack.up() == addresses

    for happens in (registry_is_killed, broker_is_killed, stack_is_stopped_by_command):
        # The last one right before: what was answered must not be lost.
        registered.add()
        registered.add()
        happens()
        registered.check()
        registered.add()
        assert rows_of(kafka, topic) == list(range(20))


def test_down_removes_what_is_the_stacks_and_leaves_other_files(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    keep_stack(folder)
    (folder / "thesis.txt").touch()
    assert Stack(folder).down()
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]
    assert not Stack(folder).down()
    alone = tmp_path / "alone"
    keep_stack(alone)
    assert Stack(alone).down()
    assert not alone.exists()


def test_a_port_that_was_taken_meanwhile_is_named_and_the_data_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tutelage.deploy.local.stack._PORT_TIMEOUT_S", 0.0)
    folder = tmp_path / "stack"
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        keep_stack(folder, port)
        with pytest.raises(
            StackError, match=f"port {port}, where clients know kafka-1 .* is taken"
        ):
            Stack(folder).up()
    assert (folder / "kafka-1" / "meta.properties").exists()


def programs_are(java: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the stack find this Java, and jars that are not there."""
    for name, found in {
        "find_java": str(java),
        "kafka_jars": java.parent / "kafka",
        "registry_home": java.parent,
    }.items():
        monkeypatch.setattr(f"tutelage.deploy.local.launcher.{name}", lambda found=found: found)


def test_a_process_that_cannot_be_started_again_is_named_and_the_data_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "stack"
    with socket.socket() as other:
        other.bind((HOST, 0))
        port = other.getsockname()[1]
    keep_stack(folder, port)
    java = tmp_path / "java"
    programs_are(java, monkeypatch)
    with pytest.raises(
        StackError, match="kafka-1 of the stack in .* could not be started: .*No such file"
    ):
        Stack(folder).up()
    java.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    java.chmod(0o700)
    with pytest.raises(
        StackError,
        match=r"kafka-1 ended at once with code 1: its log is empty \(the log is .*kafka-1.log\)",
    ):
        Stack(folder).up()
    assert (folder / "kafka-1" / "meta.properties").exists()


def test_what_a_start_left_that_was_cut_off_is_cleared_for_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "stack"
    keep_stack(folder, complete=False)

    def no_java() -> str:
        raise StackError("no Java here")

    monkeypatch.setattr("tutelage.deploy.local.launcher.find_java", no_java)
    assert not Stack(folder).is_kept()
    with pytest.raises(StackError, match="no Java here"):
        Stack(folder).up()
    assert list(folder.iterdir()) == []


def test_a_paused_process_is_ended_politely_and_one_that_waits_to_be_reaped_does_not_run() -> None:
    with subprocess.Popen(["sleep", "600"]) as child:
        created = psutil.Process(child.pid).create_time()
        child.send_signal(signal.SIGSTOP)
        processes.end([(child.pid, created)])
        # Nobody has reaped it yet.
        assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
        assert not processes.is_running(child.pid, created)
    assert child.returncode == -signal.SIGTERM


def test_a_process_that_only_has_the_same_id_is_left_alone() -> None:
    with subprocess.Popen(["sleep", "600"]) as child:
        processes.end([(child.pid, psutil.Process(child.pid).create_time() - 60)], by_force=True)
        assert child.poll() is None
        child.kill()
