"""The commands by name. A command's file is imported when the command runs, not when it is listed.

`tutelage --help` needs the name of each command and one line of help. Both are here. The flags of a
command, and the modules that it imports, come with its file.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from tutelage.cli.exit_codes import one_line_errors
from tutelage.cli.rich_help import import_renderer
from tutelage.schemas.printable import printable

#: Command -> its line in `tutelage --help`. The command NAME is the object NAME of `cli/NAME.py`.
COMMANDS = {
    "teach": "Run a teacher and write its knowledge to a file or a topic.",
    "learn": "Merge the knowledge of teachers: print it, write it, or train a student on it.",
    "record": "Copy a run from a topic to a file.",
    "replay": "Copy a run from a file to a topic.",
    "inspect": "Describe what a file or a topic holds, and show its first rows.",
    "watch": "Show topics, their teachers and their student on a live screen.",
    "verify": "Read all of a file or a topic, and check that it is complete and undamaged.",
    "repair": "Save the intact beginning of a damaged file.",
    "demo": "Run the examples offline, online and hybrid, and a distillation on digits.",
    "stack": "Run a Kafka broker and a schema registry on this machine, without containers.",
}


class Command(TyperCommand):
    """A command whose help fits any terminal.

    Typer keeps the line breaks within a docstring's paragraphs. Here each paragraph becomes one
    line, which the terminal wraps.
    """

    def __init__(self, name: str | None, *, help: str | None = None, **settings: Any) -> None:
        super().__init__(name, help=_reflowed(help or ""), **settings)

    def format_help(self, *args: Any) -> None:
        """Print the help."""
        import_renderer()
        super().format_help(*args)


class CommandGroup(TyperGroup):
    """A group of commands.

    Guarantee: what typer says about a wrong argument is printable. Where a shell expands a pattern,
    an argument may be any file's name.
    """

    def make_context(self, *args: Any, **settings: Any) -> Any:
        """Parse the group's own arguments."""
        with _printable_mistakes():
            return super().make_context(*args, **settings)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the arguments name."""
        with _printable_mistakes():
            return super().invoke(ctx)

    def format_help(self, *args: Any) -> None:
        """Print the help."""
        import_renderer()
        super().format_help(*args)


class LazyCommand(TyperCommand):
    """A command's name and line of help. The command itself is imported when it is run."""

    def __init__(self, name: str, short_help: str) -> None:
        super().__init__(name, short_help=short_help)
        self._name = name

    def load(self) -> Any:
        """Import the command's file, and make a command of its function or its typer app."""
        found = getattr(importlib.import_module(f"tutelage.cli.{self._name}"), self._name)
        if not isinstance(found, typer.Typer):
            function, found = found, typer.Typer(add_completion=False, rich_markup_mode="rich")
            found.command(self._name, cls=Command)(one_line_errors(function))
        return typer.main.get_command(found)

    def make_context(self, *args: Any, **settings: Any) -> Any:
        """Parse the command's arguments. The context is the imported command's, which then runs."""
        return self.load().make_context(*args, **settings)


class AllCommands(CommandGroup):
    """The group of all commands in `COMMANDS`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, short_help in COMMANDS.items():
            self.add_command(LazyCommand(name, short_help))


@contextlib.contextmanager
def _printable_mistakes() -> Iterator[None]:
    try:
        yield
    except Exception as mistake:
        # Typer prints the `message` of its own errors. Other errors may have none.
        message = getattr(mistake, "message", None)
        if isinstance(message, str):
            mistake.message = printable(message)  # type: ignore[attr-defined]
        raise


def _reflowed(text: str) -> str:
    """Put each paragraph on one line. Examples, which are indented, stay as they are."""
    return "\n\n".join(
        part if part.startswith(" ") else part.replace("\n", " ") for part in text.split("\n\n")
    )
