"""What came from outside cannot act on a terminal: no command prints a control character of it, and none lets it forge a line."""

from __future__ import annotations

import ast
import dataclasses
import json
import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from support.commands import invoke
from support.hostile import BAD, BAD_NAME, FORGED, KEYS, STREAM, assert_harmless, hostile_file
from support.raw_server import http_answer, raw_server

import tutelage.cli
import tutelage.deploy.local
from tutelage.cli.printing import LogFormat, draw, line, say, say_traceback
from tutelage.cli.strict_json import as_json
from tutelage.cli.watch_replicas import replicas_of
from tutelage.cli.watch_screen import WatchScreen, topics_of, verdicts_of
from tutelage.schemas.errors import RegistryUnavailable, TutelageError
from tutelage.tools.replica_view import QueriesView, ReplicaMetricsView, ReplicasView, ReplicaView
from tutelage.tools.watch_view import PartitionView, StudentView, TopicView, View
from tutelage.transport.http_registry import HttpRegistry

TUTELAGE = [sys.executable, "-c", "from tutelage.cli.main import run; run()"]
NO_BROKER = ("-b", "127.0.0.1:1", "-X", "socket.timeout.ms=1000")


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "FILE"),
        ("inspect", "FILE", "--all", "--json"),
        ("inspect", "FILE", "--plot", "FOLDER/plot.png"),
        ("learn", "FILE"),
        ("learn", "FILE", "--rows", "2"),
        ("learn", "FILE", "--json"),
        ("learn", "FILE", "FILE"),
        ("learn", "FILE", "OTHER"),
        ("learn", "FILE", "OTHER", "--merge", "no=mean"),
        ("learn", "FILE", "--sample-id", "no"),
        ("learn", "FILE", "--out", "FOLDER/out.avro"),
        ("verify", "FILE"),
        ("verify", "FILE", "--json"),
        ("repair", "FILE", "FOLDER/repaired.avro"),
        ("repair", "FILE", "FOLDER/repaired.avro", "--json"),
        ("repair", "FILE", "FILE"),
        ("replay", "FILE", "FILE"),
        ("record", "FILE", "FILE"),
        ("teach", "FILE", "--out", "FILE"),
        ("teach", "tutelage.examples.toy.lessons:teacher1", "--out", "FILE"),
        ("stack", "status", "--folder", "FILE"),
        ("stack", "stop", "--folder", "FOLDER/FILE"),
    ],
)
def test_no_command_prints_what_acts_on_a_terminal(
    tmp_path: Path, arguments: tuple[str, ...], whole: bool
) -> None:
    path = hostile_file(tmp_path, whole=whole)
    other = hostile_file(
        tmp_path,
        f"other{BAD_NAME}",
        stream=dataclasses.replace(STREAM, inputs_fingerprint="others"),
    )
    typed = [
        one.replace("FILE", str(path)).replace("OTHER", str(other)).replace("FOLDER", str(tmp_path))
        for one in arguments
    ]
    result = invoke(*typed)
    assert result.out or result.err
    assert_harmless(result.out + result.err)
    if "--json" in arguments and result.out:
        json.loads(result.out)


def test_only_what_was_asked_for_fails(tmp_path: Path) -> None:
    """Hostile text is no reason to refuse a file: it is read like any other."""
    path = str(hostile_file(tmp_path))
    plot = ("--plot", str(tmp_path / "plot.png"))
    for command in (
        ("inspect", path, *plot),
        ("learn", path),
        ("verify", path),
        ("repair", path, f"{tmp_path}/r.avro"),
    ):
        result = invoke(*command)
        assert result.code == 0, result.err
    assert (tmp_path / "plot.png").stat().st_size > 0
    assert list(json.loads(invoke("inspect", path, "--json").out)["keys"]) == list(KEYS)


@pytest.mark.parametrize(
    "wrong",
    [
        ("verify", "a", "FILE"),
        ("FILE",),
        ("inspect", "--FILE"),
        ("learn", "--rows", "FILE"),
        ("verify", "a", "--json=FILE"),
    ],
)
def test_what_was_typed_wrongly_is_shown_harmlessly(wrong: tuple[str, ...]) -> None:
    # A shell's pattern puts names of files there that somebody else chose.
    result = invoke(*(one.replace("FILE", BAD_NAME) for one in wrong))
    assert result.code == 2
    assert_harmless(result.out + result.err)


@pytest.mark.parametrize("arguments", [("inspect", "FILE"), ("verify", "FILE"), ("learn", "FILE")])
def test_a_terminal_gets_colors_of_ours_alone(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    path = hostile_file(tmp_path)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*TUTELAGE, *(one.replace("FILE", str(path)) for one in arguments)],
        stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "500"},
    ) as running:  # fmt: skip
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:
                break
            if not part:
                break
            shown += part
        running.wait(60)
    os.close(ours)
    text = shown.decode()
    # Markup is text, too.
    assert "\x1b[" in text and "forged" in text and "[bold]" in text
    assert all("[bold]" in name for name in re.findall("verifying [^\x1b]*", text))
    assert_harmless(text, styled=True)


@pytest.mark.parametrize("verbose", ["-v", "-vv"])
def test_logs_are_harmless(tmp_path: Path, verbose: str) -> None:
    lesson = tmp_path / "lesson.py"
    lesson.write_text(
        f"import time\nimport torch\nfrom tutelage import Lesson\nBAD = {BAD!r}\n"
        "def inputs():\n    yield torch.arange(4)\n    time.sleep(0.5)\n    raise ValueError(BAD)\n"
        "lesson = Lesson(model=lambda x: {BAD: x}, inputs=inputs, name=BAD, rows_per_record=2)\n"
    )
    out = os.fsdecode(os.fsencode(tmp_path / BAD_NAME))
    ran = subprocess.run(
        [*TUTELAGE, verbose, "teach", f"{lesson}:lesson", "--out", out, "--run-id", "run" + BAD.replace("\0", "")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 1 and "Traceback" in ran.stderr and "rows per record" in ran.stderr
    assert_harmless(ran.stdout + ran.stderr)


def test_log_records_and_tracebacks_hold_no_line_of_somebody_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        try:
            raise KeyError(BAD)
        except KeyError as error:
            raise ValueError(BAD) from error
    except ValueError:
        record = logging.LogRecord(
            "x", logging.WARNING, __file__, 1, "met %s", (BAD,), sys.exc_info()
        )
        assert_harmless(LogFormat("%(message)s").format(record))
        say_traceback(*sys.exc_info())
    printed = capsys.readouterr().err
    assert "direct cause" in printed and "ValueError" in printed
    assert_harmless(printed)


def test_a_line_break_of_a_value_is_no_line_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    say("one", f"two\n{FORGED}")
    assert capsys.readouterr().out == f"one\ntwo\\n{FORGED}\n"


def test_a_table_s_cells_are_no_markup_and_no_control_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = Table(title="[bold]title")
    table.add_column("[/nothing]")
    table.add_row("[link=http://evil]x[/link] :smile: \x1b[2J\x9b")
    draw(table, line(BAD))
    printed = capsys.readouterr().out
    assert (
        "[bold]title" in printed
        and "[/nothing]" in printed
        and "[link=http://evil]x[/link] :smile: \\x1b[2J\\x9b" in printed
    )
    assert_harmless(printed)


def test_json_is_harmless_as_it_is() -> None:
    said = as_json({"key": BAD, BAD: [BAD]})
    assert said.isprintable()
    assert json.loads(said) == {"key": BAD, BAD: [BAD]}


def test_errors_are_harmless_wherever_they_are_printed() -> None:
    error = TutelageError(f"key {BAD}")
    assert str(error).isprintable() and repr(error).isprintable()
    assert f"{STREAM}".isprintable()


def test_what_a_registry_answers_is_harmless() -> None:
    body = json.dumps({"error_code": 50001, "message": BAD}).encode()
    with (
        raw_server(http_answer(body, "500 Oops", "Content-Type: application/json")) as port,
        pytest.raises(RegistryUnavailable) as raised,
    ):
        HttpRegistry(f"http://127.0.0.1:{port}").schema(1)
    assert "forged" in str(raised.value)
    assert_harmless(str(raised.value))


def hostile_view() -> View:
    """A view of a topic, a group and a student whose every text is hostile."""
    part = PartitionView(first=0, read=3, end=10, rate=2.5)
    topic = TopicView(
        topic=BAD, teacher=BAD, passes=1, rows_per_record=4, partitions=[part], quiet_s=61.0
    )
    student = StudentView(starved=0.9, waits={BAD: 0.8, f"[/]{BAD}": 0.8}, checkpoint_s=1e308)
    return View(
        topics=[topic, TopicView(topic=f"[/]{BAD}")],
        student=student,
        trouble=[BAD, f"[/]{BAD}"],
        group=BAD,
        groups=[BAD],
        replicas=[
            ReplicasView(
                topic=BAD,
                queries=BAD,
                group=f"[/]{BAD}",
                replicas=[ReplicaView(client=BAD, host=f"[/]{BAD}", partitions=[0], rate=1.0)],
                partitions=[QueriesView(answered=3, end=10, rate=1.0, oldest_s=1e308, owner=BAD)],
            )
        ],
        replica_metrics=[ReplicaMetricsView(address=BAD, discarded=1)],
    )


def test_the_screen_shows_it_harmlessly() -> None:
    view = hostile_view()
    assert_harmless(verdicts_of(view).plain)
    console = Console(width=5000, record=True, file=open(os.devnull, "w"))  # noqa: SIM115  # written nowhere
    console.print(topics_of(view))
    console.print(replicas_of(view))
    shown = console.export_text()
    console.file.close()
    assert "[bold]" in shown
    assert_harmless(shown)


async def _looked_at(view: View) -> str:
    screen = WatchScreen(lambda: view, every_s=60, title=f"tutelage watch {BAD}")
    async with screen.run_test(size=(160, 60)) as pilot:
        while screen.view is None:
            await pilot.pause(0.05)
        screen.notify(str(TutelageError(BAD)), title="x", markup=False)
        await pilot.pause(0.1)
        lines = [
            "".join(segment.text for segment in strip)
            for strip in screen.screen._compositor.render_strips()
        ]
        await pilot.press("q")
    assert screen.return_code == 0
    return "\n".join(lines)


def test_the_running_screen_draws_it_harmlessly() -> None:
    import asyncio

    shown = asyncio.run(_looked_at(hostile_view()))
    assert "forged" in shown
    assert_harmless(shown)


def test_watch_prints_what_it_saw_harmlessly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.tools.watch.Watcher.look", lambda self: hostile_view())
    result = invoke("watch", "t", "--json", "--every", "0.2", *NO_BROKER)
    assert result.code == 1
    assert_harmless(result.out + result.err)
    assert json.loads(result.out)["topics"][0]["teacher"] == BAD


@pytest.mark.parametrize("created", [1e300, -1e300, 253402300800.0, -62135596801.0, 5e-324])
def test_no_date_is_too_odd_to_be_shown(tmp_path: Path, created: float) -> None:
    path = hostile_file(tmp_path, stream=dataclasses.replace(STREAM, created=created))
    result = invoke("inspect", str(path))
    # A time beyond all calendars may also be refused, as what no teacher writes.
    assert result.code in (0, 5), result.err
    assert_harmless(result.out + result.err)


def test_one_place_alone_writes_to_the_terminal() -> None:
    folders = [
        Path(tutelage.cli.__file__).resolve().parent,
        Path(tutelage.deploy.local.__file__).resolve().parent,
    ]
    writers = (
        *(
            "print",
            "typer.echo",
            "typer.secho",
            "click.echo",
            "sys.stdout.write",
            "sys.stderr.write",
        ),
        *("Console", "rich.print", "os.write", "traceback.print_exc", "traceback.print_exception"),
    )
    found = [
        f"{file.name}: {ast.unparse(node.func)}"
        for folder in folders
        for file in folder.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in writers
    ]
    # The progress bar is drawn again and again, by rich alone; its text is made printable first.
    assert sorted(found) == ["printing.py: Console", "printing.py: Console", "progress.py: Console"]
