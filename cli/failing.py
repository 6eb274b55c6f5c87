"""A user's mistake, a broker that is away, Ctrl-C: one line on stderr and an exit code, never a traceback."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from tutelage.schemas.errors import TutelageError

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
            sys.stderr.write(f"error: {error}\n")
            raise typer.Exit(error.exit_code) from None
        except Terminated:
            sys.stderr.write("terminated\n")
            raise typer.Exit(TERMINATED) from None
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever read our output has left; there is nobody to tell.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(NOBODY_READS) from None

    return guarded
