"""The help of every command: complete, the same as typer's own, and without modules that it does not need."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import typer
from support.commands import invoke

from tutelage.cli.commands import COMMANDS
from tutelage.cli.main import app

HEAVY = {
    *("torch", "numpy", "confluent_kafka", "prometheus_client", "wsgiref", "fastavro", "httpx"),
    *("rich.markdown", "rich.traceback", "rich.progress", "markdown_it", "pygments"),
    *("textual", "matplotlib", "psutil"),
}


def run(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a terminal of 80 columns."""
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def test_every_command_has_help_with_an_example() -> None:
    assert "teach" in invoke("--help").out
    for command in ("teach", "learn", "record", "replay", "inspect", "verify"):
        assert f"tutelage {command} " in invoke(command, "--help").out
    assert "tutelage stack up" in invoke("stack", "up", "--help").out
    assert invoke("--version").out.startswith("tutelage ")


def test_the_list_of_commands_names_commands_that_can_be_loaded() -> None:
    listed = " ".join(invoke("--help").out.replace("│", " ").split())
    for name, line in COMMANDS.items():
        assert f"{name} {line}" in listed
        assert f" {name} [OPTIONS]" in invoke(name, "--help").out


def test_every_flag_and_argument_has_a_help_text_of_its_own() -> None:
    group: Any = typer.main.get_command(app)
    commands = [each.load() for each in group.commands.values()]
    below = [each for command in commands for each in getattr(command, "commands", {}).values()]
    for command in (group, *commands, *below):
        for param in command.params:
            text = param.help or ""
            assert text[:1].isupper() and text.endswith("."), f"{command.name} {param.opts}: {text}"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["learn", "--help"], ["stack", "--help"], ["--version"]]
)
def test_help_does_not_import_what_only_commands_need(arguments: list[str]) -> None:
    done = run(
        "import sys\n"
        "from tutelage.cli.main import app\n"
        f"try:\n    app({arguments!r})\n"
        "except SystemExit:\n    print(*sys.modules, file=sys.stderr)"
    )
    unwanted = set(HEAVY)
    if arguments == ["--help"]:
        unwanted |= {f"tutelage.cli.{name}" for name in (*COMMANDS, "kafka_flags")}
    assert done.stdout and not unwanted & set(done.stderr.split())


@pytest.mark.parametrize(
    "arguments", [["--help"], ["teach", "--help"], ["stack", "node", "--help"]]
)
def test_help_looks_as_if_typer_had_imported_everything(arguments: list[str]) -> None:
    program = f"from tutelage.cli.main import app\napp({arguments!r})"
    assert run(program).stdout == run(f"import typer.rich_utils\n{program}").stdout


def test_what_stands_in_for_a_class_of_rich_makes_the_class_when_it_is_used() -> None:
    done = run(
        "import sys\n"
        "from tutelage.cli.rich_help import import_renderer\n"
        "import_renderer()\n"
        "import typer.rich_utils as used\n"
        "assert 'rich.markdown' not in sys.modules and 'rich.traceback' not in sys.modules\n"
        "print(type(used.Markdown('*x*')), used.Traceback.from_exception)"
    )
    assert "rich.markdown.Markdown" in done.stdout
    assert "Traceback.from_exception" in done.stdout
