"""Folders and `stack.json` files that somebody else prepared: nothing but the stack's own is removed, ended or run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.commands import invoke
from support.kept_stacks import WRITTEN, keep_stack, kept_state

from tutelage.deploy.local import Stack, StackError, command_lines
from tutelage.deploy.local.command_lines import BrokerPorts

USES: dict[str, Callable[[Stack], object]] = {
    "up": lambda stack: stack.up(),
    "status": lambda stack: stack.status(),
    "stop": lambda stack: stack.stop(),
    "down": lambda stack: stack.down(),
    "kill": lambda stack: stack.kill("kafka-1"),
    "restart": lambda stack: stack.restart("kafka-1"),
}
every_use = pytest.mark.parametrize("use", USES.values(), ids=USES)


@pytest.fixture
def no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be started here."""

    def never() -> str:
        raise AssertionError("a process was about to be started")

    monkeypatch.setattr("tutelage.deploy.local.launcher.find_java", never)


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of this user that is no stack's; it works in the folder `home`."""
    (tmp_path / "home").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], cwd=tmp_path / "home"
    ) as process:
        yield process
        process.kill()


def everything(folder: Path) -> dict[str, bytes | None]:
    """All that lies under a folder, with what files hold."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def say(folder: Path, value: Any) -> None:
    """Write `stack.json`."""
    (folder / "stack.json").write_text(
        value if isinstance(value, str) else json.dumps(value), encoding="utf-8"
    )


def test_down_leaves_what_others_put_into_data_folders_and_removes_all_of_the_stacks(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "stack"
    keep_stack(folder)
    theirs = [
        *(
            "thesis.txt",
            "kafka-1/thesis.txt",
            "kafka-1/notes-1/thesis.txt",
            "registry/thesis.txt",
            "registry/letters-0/a.txt",
        ),
        *(
            "kafka-2.txt",
            "kafka-1/teacher1.to-student-0/thesis.log",
            "registry/my-schemas.mv.db",
            "logs/kafka-1.log",
        ),
    ]
    for name in theirs:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("theirs", encoding="utf-8")
    assert Stack(folder).down()
    assert {
        path: text for path, text in everything(folder).items() if text is not None
    } == dict.fromkeys(theirs, b"theirs")


def test_down_follows_no_link_that_was_planted_in_place_of_what_the_stack_made(
    tmp_path: Path,
) -> None:
    folder, home = tmp_path / "stack", tmp_path / "home"
    keep_stack(folder)
    for name in WRITTEN:
        (home / Path(name).name).parent.mkdir(exist_ok=True)
        (home / Path(name).name).write_text("theirs", encoding="utf-8")
    (home / "topic-0").mkdir()
    (home / "topic-0" / "00000000000000000000.log").write_text("theirs", encoding="utf-8")
    before = everything(home)
    planted = {
        "kafka-2": home,
        "kafka-1/linked-0": home / "topic-0",
        "kafka-1/00000000000000000000.log": home / "kafka-1.log",
        "kafka-2.log": home / "kafka-1.log",
        "registry/schemas.lock.db": home / "schemas.mv.db",
    }
    for name, target in planted.items():
        (folder / name).symlink_to(target)
    assert Stack(folder).down()
    assert everything(home) == before
    assert sorted(
        path.name for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()
    ) == ["kafka-2", "linked-0"]


@pytest.mark.usefixtures("no_programs")
def test_up_takes_a_new_or_an_empty_folder_alone_and_closes_it_to_others(tmp_path: Path) -> None:
    for name in ("thesis.txt", ".hidden", "kafka-1", "registry.log"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("theirs", encoding="utf-8")
        before = everything(tmp_path / name)
        with pytest.raises(
            StackError,
            match=f"{name} holds '{name}' and does not belong to a stack: name a new or an empty folder",
        ):
            Stack(tmp_path / name).up()
        assert everything(tmp_path / name) == before
    (tmp_path / "empty").mkdir(mode=0o755)
    for name in ("new", "empty"):
        with pytest.raises(AssertionError, match="about to be started"):
            Stack(tmp_path / name).up()
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o700


@every_use
@pytest.mark.usefixtures("no_programs")
def test_a_folder_or_a_file_that_others_can_write_is_not_used(
    tmp_path: Path, use: Callable[[Stack], object]
) -> None:
    for open_one, mode in {"": 0o770, "stack.json": 0o606}.items():
        folder = tmp_path / f"open-{mode}"
        keep_stack(folder)
        (folder / open_one).chmod(mode)
        before = everything(folder)
        with pytest.raises(
            StackError,
            match=r"others may write to .*open-504|stack\.json is not a file that this user alone may write",
        ):
            use(Stack(folder))
        assert everything(folder) == before


@every_use
@pytest.mark.usefixtures("no_programs")
def test_a_folder_or_a_file_of_another_user_is_not_used(
    tmp_path: Path, use: Callable[[Stack], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "stack"
    keep_stack(folder)
    before = everything(folder)
    if os.geteuid() == 0:
        os.chown(folder / "stack.json", 4711, 4711)
        with pytest.raises(StackError, match=r"stack\.json belongs to another user \(id 4711\)"):
            use(Stack(folder))
    # The folder is this user's; now this user is another one.
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    with pytest.raises(StackError, match=f"{folder} belongs to another user"):
        use(Stack(folder))
    assert everything(folder) == before


@every_use
@pytest.mark.usefixtures("no_programs")
def test_a_stack_file_that_is_a_link_or_a_pipe_is_refused(
    tmp_path: Path, use: Callable[[Stack], object]
) -> None:
    for kind in ("link", "pipe"):
        folder = tmp_path / kind
        keep_stack(folder)
        (folder / "stack.json").rename(tmp_path / "elsewhere.json")
        if kind == "link":
            (folder / "stack.json").symlink_to(tmp_path / "elsewhere.json")
        else:
            os.mkfifo(folder / "stack.json", 0o600)
        with pytest.raises(
            StackError, match=r"stack\.json (cannot be read, or is a link|is not a file)"
        ):
            use(Stack(folder))
        assert all((folder / name).exists() for name in WRITTEN)


@every_use
@pytest.mark.usefixtures("no_programs")
def test_a_stack_file_of_another_folder_is_refused(
    tmp_path: Path, use: Callable[[Stack], object]
) -> None:
    keep_stack(tmp_path / "stack")
    keep_stack(tmp_path / "copy")
    say(tmp_path / "copy", kept_state(tmp_path / "stack"))
    before = everything(tmp_path / "copy")
    with pytest.raises(
        StackError, match=f"is of the stack in '{tmp_path / 'stack'}', not of this folder"
    ):
        use(Stack(tmp_path / "copy"))
    assert everything(tmp_path / "copy") == before


def place(**changed: Any) -> list[dict[str, Any]]:
    """A broker's place as `stack.json` holds it."""
    return [{"port": 1, "controller": 1, "advertised": 1, "internal": None, **changed}]


def started(name: str = "kafka-1", **changed: Any) -> dict[str, Any]:
    """A process as `stack.json` holds it."""
    return {name: {"pid": 2, "created": 0.0, **changed}}


FORGED: dict[str, Any] = {
    "not JSON": "{",
    "deep": "[" * 60_000,
    "a list": [],
    "of another program": {"stacks": ["production"]},
    "another format": {"format": 3},
    "a format that is true": {"format": True},
    "a folder that is none": {"folder": ["/"]},
    "a folder with a zero": {"folder": "/tmp\0/x"},
    "a folder that writes to the terminal": {"folder": "/tmp/\x1b[2Jx\nerror: y"},
    "no brokers": {"brokers": []},
    "two brokers": {"brokers": place() * 2},
    "a broker's port as text": {"brokers": place(port="9092")},
    "a broker's port that is true": {"brokers": place(port=True)},
    "a port out of range": {"brokers": place(controller=65536)},
    "a port of 0": {"brokers": place(internal=0)},
    "a setting of a broker": {"brokers": place(**{"log.dirs": "/"})},
    "a registry that is none": {"registry": 8081},
    "a command": {"command": ["/bin/sh", "-c", "echo pwned"]},
    "complete as text": {"complete": "false"},
    "a process of another name": {"started": started("../../home")},
    "a process that the stack has not": {"started": started("kafka-2")},
    "a command of a process": {"started": started(command=["/bin/sh"])},
    "a pid as text": {"started": started(pid="2")},
    "a pid with a fraction": {"started": started(pid=2.5)},
    "the pid of all processes": {"started": started(pid=-1)},
    "the pid of this group": {"started": started(pid=0)},
    "the system's pid": {"started": started(pid=1)},
    "a pid beyond any": {"started": started(pid=1 << 40)},
    "a time that is none": {"started": started(created=float("nan"))},
    "a time beyond any": {"started": started(created=10**400)},
}


@pytest.mark.parametrize("what", FORGED)
@pytest.mark.usefixtures("no_programs")
def test_a_stack_file_that_no_stack_wrote_is_one_error_and_changes_nothing(
    tmp_path: Path, what: str
) -> None:
    folder = tmp_path / "stack"
    forged = FORGED[what]
    if isinstance(forged, dict) and what != "of another program":
        forged = kept_state(folder) | forged
    keep_stack(folder)
    say(folder, forged)
    before = everything(folder)
    for name, use in USES.items():
        with pytest.raises(
            StackError,
            match=r"stack\.json is (not what a stack writes|of the stack)|larger than any",
        ):
            use(Stack(folder))
        assert everything(folder) == before, name
    done = invoke("stack", "down", "--folder", str(folder))
    assert (
        done.code == StackError.exit_code
        and done.err.startswith("error: ")
        and "Traceback" not in done.err
    )
    assert done.err.count("\n") == 1 and "\x1b" not in done.err


@every_use
@pytest.mark.usefixtures("no_programs")
def test_a_stack_file_of_an_earlier_version_is_refused_with_what_to_do(
    tmp_path: Path, use: Callable[[Stack], object]
) -> None:
    folder, ran = tmp_path / "stack", tmp_path / "ran"
    keep_stack(folder)
    entry = {
        "pid": 2,
        "created": 0.0,
        "port": 1,
        "command": ["/bin/touch", str(ran)],
        "environment": {},
    }
    addresses = {"bootstrap_servers": "127.0.0.1:1", "registry": "http://127.0.0.1:1"}
    say(folder, {"addresses": addresses, "complete": True, "processes": {"kafka-1": entry}})
    with pytest.raises(
        StackError, match=r"earlier version .* holds commands .*`tutelage stack down`"
    ):
        use(Stack(folder))
    assert not ran.exists()


@every_use
@pytest.mark.usefixtures("no_programs")
def test_a_process_that_a_forged_file_names_is_left_alone(
    tmp_path: Path, use: Callable[[Stack], object], foreign: subprocess.Popen[bytes]
) -> None:
    # It works in the stack's folder, and its time of creation is right: it is still not a broker.
    folder = tmp_path / "home"
    folder.rmdir()
    keep_stack(folder)
    created = psutil.Process(foreign.pid).create_time()
    say(folder, kept_state(folder, started={"kafka-1": {"pid": foreign.pid, "created": created}}))
    before = everything(folder)
    with pytest.raises(
        StackError,
        match=f"process {foreign.pid} is kafka-1 of this stack, and it is another program",
    ):
        use(Stack(folder))
    assert everything(folder) == before and foreign.poll() is None


def test_a_broker_of_another_folder_is_left_alone(tmp_path: Path) -> None:
    folder, other = tmp_path / "stack", tmp_path / "other"
    keep_stack(folder)
    other.mkdir()
    # The command line of a broker, but not where this stack's work.
    command = [
        sys.executable,
        "-c",
        "import time; time.sleep(600)",
        "kafka.Kafka",
        str(folder / "kafka-1.properties"),
    ]
    with subprocess.Popen(command, cwd=other) as process:
        try:
            created = psutil.Process(process.pid).create_time()
            say(
                folder,
                kept_state(folder, started={"kafka-1": {"pid": process.pid, "created": created}}),
            )
            for use in USES.values():
                with pytest.raises(StackError, match="it is another program"):
                    use(Stack(folder))
            assert process.poll() is None and (folder / "kafka-1" / "meta.properties").exists()
        finally:
            process.kill()


def test_the_stacks_own_process_is_known_and_ended(tmp_path: Path) -> None:
    folder = tmp_path / "stack"
    keep_stack(folder)
    command = [
        sys.executable,
        "-c",
        "import time; time.sleep(600)",
        "kafka.Kafka",
        str(folder / "kafka-1.properties"),
    ]
    with subprocess.Popen(command, cwd=folder) as process:
        created = psutil.Process(process.pid).create_time()
        say(
            folder,
            kept_state(folder, started={"kafka-1": {"pid": process.pid, "created": created}}),
        )
        assert Stack(folder).down()
        assert process.wait(20) == -15 and not folder.exists()


def test_settings_and_commands_are_built_anew_and_not_taken_from_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, home, ran = tmp_path / "stack", tmp_path / "home", tmp_path / "ran"
    home.mkdir()
    keep_stack(folder, 1)
    java = tmp_path / "java"
    java.write_text(f'#!/bin/sh\necho "$@" >> {ran}\nexit 1\n', encoding="utf-8")
    java.chmod(0o700)
    for name, found in {"find_java": str(java), "kafka_jars": home, "registry_home": home}.items():
        monkeypatch.setattr(f"tutelage.deploy.local.launcher.{name}", lambda found=found: found)
    monkeypatch.setattr("tutelage.deploy.local.stack.is_free", lambda port, within_s: True)
    (folder / "kafka-1.properties").write_text("log.dirs=/\n", encoding="utf-8")
    # A link in place of a file that is written would have another file written.
    for name in ("log4j.properties", "stack.json.new"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(home / name)
    stack = Stack(folder)
    stack.restart("kafka-1")
    stack.restart("registry")
    stack.stop()
    place = BrokerPorts(port=1, controller=1, advertised=1)
    assert (folder / "kafka-1.properties").read_text() == command_lines.broker_properties(
        0, [place], folder / "kafka-1"
    )
    said = ran.read_text().splitlines()
    assert [line.split()[-1] for line in said] == [
        str(folder / "kafka-1.properties"),
        str(home / "quarkus-run.jar"),
    ]
    assert not list(home.iterdir())
    (folder / "registry.log").unlink()
    (folder / "registry.log").symlink_to(home / "registry.log")
    with pytest.raises(StackError, match="registry of the stack in .* could not be started"):
        stack.restart("registry")
    (folder / "kafka-1.log").unlink()
    (folder / "kafka-1").rename(tmp_path / "moved")
    (folder / "kafka-1").symlink_to(home)
    with pytest.raises(StackError, match="kafka-1 is not the folder that the stack made"):
        stack.restart("kafka-1")
    assert not list(home.iterdir())
