"""What commands print: text that any terminal can show, and errors of the output itself that name it."""

from __future__ import annotations

import contextlib
import io
import os
import sys

from tutelage.schemas.errors import ConfigurationError, TransportError


def prepare_output() -> None:
    """Have characters that standard output or error cannot show written escaped, and have both be there even where they were closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # it lives as long as the process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str, *, error: bool = False) -> None:
    """Print a line, at once.

    Not `typer.echo`, which takes another encoding than the one that was asked for where that is ASCII.

    Raises:
        TransportError: Standard output cannot be written. BrokenPipeError where nobody reads it any more.
    """
    if error:
        # Where errors cannot be written there is no place to say so.
        with contextlib.suppress(OSError):
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
        return
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as failure:
        raise TransportError(f"standard output cannot be written: {failure.strerror}") from failure


def is_shown(text: str) -> bool:
    """Whether standard output has all characters of a text."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def one_line(text: str) -> str:
    """A text with line breaks, control characters and half characters escaped: keys may hold anything."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


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
