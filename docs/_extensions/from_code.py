"""Pages that are written from the code when the site is built: commands, exit codes, metrics and limits.

Each function returns Markdown. They are written to `reference/_generated`, which the pages include.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from sphinx.application import Sphinx

from tutelage import Limits, MemorySink, MemorySource, MemoryTopic, Student, Teacher
from tutelage.cli.commands import LazyCommand
from tutelage.consumers.metrics import StudentMetrics
from tutelage.on_policy.metrics import policy_metrics
from tutelage.producers.answers.metrics import replica_metrics
from tutelage.producers.answers.progress import ReplicaStats
from tutelage.producers.metrics import TeacherMetrics
from tutelage.schemas import errors

WIDTH = 96
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx's entry point."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_pages(app: Sphinx) -> None:
    """Write what the reference's pages include; a file that would not change is left alone."""
    folder = Path(app.srcdir) / "reference" / "_generated"
    folder.mkdir(exist_ok=True)
    # Sphinx has root handlers of its own, which would print what the small run below says.
    logging.getLogger("tutelage").setLevel(logging.WARNING)
    for name, text in (
        ("commands", commands()),
        ("exit_codes", exit_codes()),
        ("errors", error_reference()),
        ("metrics", metrics()),
        ("limits", limits()),
    ):
        page = folder / f"{name}.md"
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def commands() -> str:
    """What each command's `--help` prints."""
    from tutelage.cli.main import app

    found = typer.main.get_command(app)
    parts = [f"## tutelage\n\n{_help_block(['--help'])}"]
    for words, _ in _leaves(found, ()):
        parts.append(f"## tutelage {' '.join(words)}\n\n{_help_block([*words, '--help'])}")
    return "\n".join(parts)


def _leaves(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below a group, the group itself first."""
    for name, each in getattr(command, "commands", {}).items():
        if isinstance(each, LazyCommand):
            each = each.load()
        yield (*words, name), each
        yield from _leaves(each, (*words, name))


def _help_block(arguments: list[str]) -> str:
    return f"```text\n{help_text(arguments)}\n```\n"


def help_text(arguments: list[str]) -> str:
    """What the command line prints for these arguments, as on a terminal without colours."""
    from tutelage.cli.main import app

    before = {name: os.environ.get(name) for name in ("COLUMNS", "TERMINAL_WIDTH", "NO_COLOR")}
    os.environ.update({"COLUMNS": str(WIDTH), "TERMINAL_WIDTH": str(WIDTH), "NO_COLOR": "1"})
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            app(arguments, prog_name="tutelage")
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    return "\n".join(
        line.rstrip() for line in _COLOURS.sub("", printed.getvalue()).strip().splitlines()
    )


def exit_codes() -> str:
    """The exit codes of the command line, and every error with the code it ends in."""
    rows = ["| code | meaning |", "| --- | --- |"]
    rows += [f"| {code} | {meaning} |" for code, meaning in _told_codes()]
    rows += ["", "## Errors", "", "| error | exit code | meaning |", "| --- | --- | --- |"]
    rows += [
        f"| {'&emsp;' * depth}`{kind.__name__}` | {kind.exit_code} | {_first_sentence(kind)} |"
        for kind, depth in _tree(errors.TutelageError, 0)
    ]
    return "\n".join([*rows, ""])


def error_reference() -> str:
    """What autodoc is to show of each error."""
    blocks = [
        f".. autoexception:: tutelage.{kind.__name__}\n   :show-inheritance:\n"
        for kind, _ in _tree(errors.TutelageError, 0)
    ]
    return "```{eval-rst}\n" + "\n".join(blocks) + "```\n"


def _told_codes() -> Iterator[tuple[str, str]]:
    """The exit codes as `--help` lists them: "0 success, 1 unexpected error, ..."."""
    from tutelage.cli.main import app

    for each in str(app.info.epilog).partition(":")[2].strip().rstrip(".").split(", "):
        code, _, meaning = each.partition(" ")
        # A comma within a meaning continues it.
        if code.isdigit():
            yield code, _MEANINGS.get(code, meaning)


#: What does not fit into the line that `--help` prints.
_MEANINGS = {
    "1": "something unforeseen (a traceback); `stack status` without a stack; `watch --json` where something could not be looked at",
    "2": "the call or its flags are wrong: `ConfigurationError` and its kinds",
    "3": "a schema or a description is wrong: `SchemaError` and its kinds",
    "4": "the broker, the registry or the disk failed: `TransportError` and its kinds",
    "5": "data are wrong or missing: `DataError` and its kinds",
    "6": "a wait ran out: `WaitTimeout`",
    "7": "no local stack can run here (Java or Maven is missing)",
    "8": "`demo` could run only its offline part",
    "130": "interrupted (Ctrl-C); everything was closed in order",
    "143": "terminated (SIGTERM); everything was closed in order",
}


def _tree(
    kind: type[errors.TutelageError], depth: int
) -> Iterator[tuple[type[errors.TutelageError], int]]:
    yield kind, depth
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from _tree(below, depth + 1)


def _first_sentence(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def metrics() -> str:
    """Every metric of both sides, as a small run shows them."""
    topic = MemoryTopic(name="docs")
    teacher = Teacher(MemorySink(topic))
    produced = TeacherMetrics(teacher)
    with teacher:
        teacher.write({"x": _rows()})
    student = Student()
    student.register_teacher(MemorySource(topic))
    consumed = StudentMetrics(student)
    with student:
        list(student.knowledge(2))
        parts = ["## A student", "", *_listed(consumed.collect())]
        parts += ["## A teacher", "", *_listed(produced.collect())]
    answered = replica_metrics(ReplicaStats(), ("teacher", "topic"), ("", ""))
    parts += ["## A teacher that answers queries", "", *_listed(answered)]
    parts += ["## A student that trains on-policy", "", *_listed(policy_metrics(0, 0, 0))]
    return "\n".join(parts)


def _rows() -> Any:
    import numpy as np

    return np.zeros((4, 1), np.float32)


def _listed(families: Iterable[Any]) -> Iterator[str]:
    # Families that had nothing to show know their labels all the same.
    for family in families:
        name = family.name + ("_total" if family.type == "counter" else "")
        names = getattr(family, "_labelnames", ()) or _labels_of(family)
        by = f", by {', '.join(f'`{label}`' for label in names)}" if names else ""
        yield f"`{name}`\n: {family.documentation} ({family.type}{by})\n"


def _labels_of(family: Any) -> list[str]:
    found = {label for sample in family.samples for label in sample.labels} - {"le"}
    return sorted(found, key=("teacher", "topic", "partition").index)


def limits() -> str:
    """The limits of what is read, and their defaults."""
    meanings = _documented(Limits)
    rows = ["| limit | default | what it bounds |", "| --- | --- | --- |"]
    rows += [
        f"| `{field.name}` | {field.default:,} | {meanings[field.name]} |"
        for field in dataclasses.fields(Limits)
    ]
    return "\n".join([*rows, ""])


def _documented(kind: type) -> Mapping[str, str]:
    """The `Args:` of a docstring."""
    found: dict[str, str] = {}
    name = ""
    for line in (inspect.getdoc(kind) or "").partition("Args:\n")[2].splitlines():
        if not line.strip():
            break
        if line.startswith("    ") and not line.startswith("     "):
            name, _, text = line.strip().partition(": ")
            found[name] = text
        else:
            found[name] += " " + line.strip()
    return found
