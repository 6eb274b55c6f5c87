"""A user's mistake, a broker that is away, Ctrl-C: one line on stderr and an exit code, never a traceback."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from tutelage.cli.printing import say
from tutelage.schemas.errors import TransportError, TutelageError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

INTERRUPTED = 130
TERMINATED = 143
NOBODY_READS = 141


class Terminated(KeyboardInterrupt):
    """SIGTERM: whoever runs us wants us to end, in order. What is under way is closed as after Ctrl-C."""


def end_on_sigterm() -> None:
    """Have SIGTERM raise Terminated in the main thread."""

    def terminated(_: int, __: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminated)


def one_line_errors(command: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """The command, with its errors turned into a line and an exit code."""

    @functools.wraps(command)
    def guarded(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return command(*args, **kwargs)
        except TutelageError as error:
            say(f"error: {error}", error=True)
            raise typer.Exit(error.exit_code) from None
        except Terminated:
            say("terminated", error=True)
            raise typer.Exit(TERMINATED) from None
        except KeyboardInterrupt:
            say("interrupted", error=True)
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever read our output has left; there is nobody to tell.
            _write_nothing_more()
            raise typer.Exit(NOBODY_READS) from None

    return guarded


def flushed(code: int) -> int:
    """The exit code, once what was printed is out; another one where a command that did well could not say so."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _write_nothing_more()
        return code or NOBODY_READS
    except OSError as error:
        _write_nothing_more()
        if not code:
            say(f"error: standard output cannot be written: {error.strerror}", error=True)
        return code or TransportError.exit_code
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    return code


def _write_nothing_more() -> None:
    """What is left in standard output's buffer would fail again when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
