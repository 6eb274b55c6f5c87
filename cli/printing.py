"""Prints what commands print. No other module writes to the terminal.

`say` prints lines, `draw` prints what rich lays out, and `LogFormat` formats log records and
tracebacks. Each of them escapes every character that a terminal does not show as itself, so that
text from outside cannot control the terminal or forge a line. A line break within a line came with
a value, and is escaped, too.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from tutelage.schemas.errors import ConfigurationError, TransportError
from tutelage.schemas.printable import printable
from tutelage.transport.hiding import hiding

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.segment import Segment
    from rich.text import Text

# Columns, if standard output is not a terminal.
_WIDTH = 120


def prepare_output() -> None:
    """Open standard output and error if they are closed, and escape what their encoding lacks."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # It stays open until the process exits.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(*lines: str, error: bool = False) -> None:
    """Print lines and flush. Each line is made printable.

    `typer.echo` is not used: where the encoding is ASCII, it takes another one.

    Args:
        lines: The lines, without line breaks.
        error: Whether to print to standard error.

    Raises:
        TransportError: Standard output cannot be written.
        BrokenPipeError: The reader of standard output has closed it.
    """
    _write("".join(f"{printable(line)}\n" for line in lines), error=error)


def draw(*parts: RenderableType) -> None:
    """Print what rich lays out: tables, and texts made by `line`, which are not wrapped.

    Markup and emoji codes are printed as text. A value must be passed through `line`: rich breaks
    lines, and here a value's line breaks look like rich's own.

    Raises:
        TransportError: Standard output cannot be written.
        BrokenPipeError: The reader of standard output has closed it.
    """
    from rich.console import Console
    from rich.segment import Segments
    from rich.text import Text

    # Drawn to memory first, then written as `say` writes.
    drawn = _Page()
    terminal = sys.stdout.isatty()
    width = Console().width if terminal else _WIDTH
    console = Console(
        file=drawn, force_terminal=terminal, markup=False, emoji=False, highlight=False, width=width
    )
    unwrapped = console.options.update(no_wrap=True, overflow="ignore")
    for part in parts:
        laid_out = console.render(part, unwrapped if isinstance(part, Text) else None)
        console.print(Segments(_printable_segments(laid_out)), soft_wrap=True)
    _write(drawn.getvalue())


def line(text: str, style: str = "") -> Text:
    """A line or a table cell for rich and Textual: printable text without markup."""
    from rich.text import Text

    return Text(printable(text), style=style)


class _Page(io.StringIO):
    """The drawn text. Rich chooses a table's lines by its encoding, which is standard output's."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(sys.stdout, "encoding", None) or "utf-8"


class LogFormat(logging.Formatter):
    """Formats a log record of any library as one line without secrets.

    Guarantee: no line of a record looks like another record or like an error of this program. The
    lines of a traceback are indented.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Format the record as a line."""
        return printable(hiding.hidden(super().formatMessage(record)))

    def formatException(self, ei: Any) -> str:
        """Format the traceback, indented."""
        return "\n".join(
            f"  {printable(text)}"
            for text in hiding.hidden(super().formatException(ei)).split("\n")
        )


def say_traceback(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    """Print the traceback of an unexpected error to standard error, as Python does, but printable.

    Further lines of a message are indented, so that none looks like an error of this program.
    """
    lines: list[str] = []
    for part in traceback.format_exception(kind, error, trace):
        first, *further = hiding.hidden(part).rstrip("\n").split("\n")
        lines += [
            first,
            *(text if text.startswith(" ") or not text else f"  {text}" for text in further),
        ]
    say(*lines, error=True)


def is_shown(text: str) -> bool:
    """Whether standard output's encoding has all characters of a text."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def typed_text(flag: str, argument: str) -> str:
    """Decode an argument as UTF-8, whatever the locale's encoding.

    Args:
        flag: The argument's flag, for the error.
        argument: The argument as Python decoded it.

    Returns:
        The text that was typed.

    Raises:
        ConfigurationError: The argument is not UTF-8.
    """
    try:
        return os.fsencode(argument).decode()
    except UnicodeError:
        # The argument is not shown: it may be a secret.
        raise ConfigurationError(f"{flag}: what is given is not UTF-8 text") from None


def _printable_segments(segments: Iterable[Segment]) -> Iterator[Segment]:
    """The segments of text, printable except for rich's line breaks, without control codes."""
    for segment in segments:
        if not segment.control:
            text = "\n".join(map(printable, segment.text.split("\n")))
            yield segment._replace(text=text)


def _write(text: str, *, error: bool = False) -> None:
    stream: TextIO = sys.stderr if error else sys.stdout
    try:
        stream.write(text)
        stream.flush()
    except OSError as failure:
        if error:
            # There is no other place to report it.
            return
        if isinstance(failure, BrokenPipeError):
            raise
        raise TransportError(f"standard output cannot be written: {failure.strerror}") from failure
