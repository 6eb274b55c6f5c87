"""Turns errors and signals into one line on standard error and an exit code.

A user's mistake, an unreachable broker, Ctrl-C and SIGTERM never end in a traceback.
"""

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

# What a shell reports for a process that SIGINT, SIGTERM or SIGPIPE ended: 128 + the signal.
INTERRUPTED = 130
TERMINATED = 143
BROKEN_PIPE = 141


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived. Everything that is open is closed in order, as after Ctrl-C."""


def raise_on_sigterm() -> None:
    """Have SIGTERM raise `Terminated` in the main thread."""

    def terminate(_: int, __: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)


def one_line_errors(command: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Wrap a command so that its errors end in one line on standard error and an exit code."""

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
            # The reader of standard output has closed it.
            _discard_output()
            raise typer.Exit(BROKEN_PIPE) from None

    return guarded


def flush_output(code: int) -> int:
    """Flush standard output and standard error.

    Args:
        code: The exit code so far.

    Returns:
        The exit code. It is not 0 if standard output could not be written.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return code or BROKEN_PIPE
    except OSError as error:
        _discard_output()
        if not code:
            say(f"error: standard output cannot be written: {error.strerror}", error=True)
        return code or TransportError.exit_code
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    return code


def _discard_output() -> None:
    """Redirect standard output to /dev/null: writing its buffer at exit would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
