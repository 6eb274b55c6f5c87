"""What commands print. The only place that writes to the terminal: no text from outside can act on it or forge a line.

`say` prints lines, `draw` what rich lays out, `LogFormat` formats log records and tracebacks. Each escapes all characters that are not
shown as themselves. A line break is ours only between two lines: one inside a line came with a value, and is escaped.
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

# Where no terminal says how wide it is.
_WIDTH = 120


def prepare_output() -> None:
    """Have characters that standard output or error cannot show written escaped, and have both be there even where they were closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # it lives as long as the process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(*lines: str, error: bool = False) -> None:
    """Print lines, at once, each printable.

    Not `typer.echo`, which takes another encoding than the one that was asked for where that is ASCII.

    Raises:
        TransportError: Standard output cannot be written. BrokenPipeError where nobody reads it any more.
    """
    _write("".join(f"{printable(line)}\n" for line in lines), error=error)


def draw(*parts: RenderableType) -> None:
    """Print what rich lays out: tables, and lines of `line`, which are not wrapped. Markup and emoji codes are text like any other.

    Values enter by `line`: rich breaks lines by itself, so a line break of a value cannot be told from rich's own here.

    Raises:
        TransportError: Standard output cannot be written. BrokenPipeError where nobody reads it any more.
    """
    from rich.console import Console
    from rich.segment import Segments
    from rich.text import Text

    # Drawn first and written then, as everything else is.
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
    """A line or a table's cell for rich and Textual: the text printable, and no markup in it."""
    from rich.text import Text

    return Text(printable(text), style=style)


class _Page(io.StringIO):
    """What is drawn, with the characters that standard output has: rich draws lines of tables in ASCII where it has no others."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(sys.stdout, "encoding", None) or "utf-8"


class LogFormat(logging.Formatter):
    """A log record, of any library, as one line without secrets. The lines of a traceback are indented.

    No line of it can be taken for another record, or for an error of ours.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The record's line."""
        return printable(hiding.hidden(super().formatMessage(record)))

    def formatException(self, ei: Any) -> str:
        """The traceback, indented."""
        return "\n".join(
            f"  {printable(text)}"
            for text in hiding.hidden(super().formatException(ei)).split("\n")
        )


def say_traceback(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    """Print the traceback of an error that nobody expected on standard error, as Python does, but printable.

    A message's further lines are indented, so that none can be taken for an error of ours.
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
    """Whether standard output has all characters of a text."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def typed_text(flag: str, argument: str) -> str:
    """The text that a user typed, which is UTF-8 also where the locale knows only ASCII.

    Raises:
        ConfigurationError: It is not UTF-8.
    """
    try:
        return os.fsencode(argument).decode()
    except UnicodeError:
        # Without the argument, which may be a secret.
        raise ConfigurationError(f"{flag}: what is given is not UTF-8 text") from None


def _printable_segments(segments: Iterable[Segment]) -> Iterator[Segment]:
    """Segments of text without control codes, and printable but for the line breaks that rich made."""
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
            # Where errors cannot be written there is no place to say so.
            return
        if isinstance(failure, BrokenPipeError):
            raise
        raise TransportError(f"standard output cannot be written: {failure.strerror}") from failure
