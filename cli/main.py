"""`tutelage`: the commands put together, and errors turned into one line and an exit code."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tutelage.cli.demo import demo
from tutelage.cli.failing import end_on_sigterm, flushed, one_line_errors
from tutelage.cli.inspect import inspect
from tutelage.cli.learn import learn
from tutelage.cli.printing import LogFormat, prepare_output, say, say_traceback
from tutelage.cli.record import record
from tutelage.cli.repair import repair
from tutelage.cli.replay import replay
from tutelage.cli.stack import stack
from tutelage.cli.teach import teach
from tutelage.cli.verify import verify
from tutelage.cli.watch import watch
from tutelage.schemas.printable import printable

EPILOG = (
    "Exit codes: 0 done, 1 other, 2 wrong use, 3 schema, 4 broker, registry or disk, 5 data wrong or missing, "
    "6 waited in vain, 7 no local stack, 8 demo ran offline only, 130 interrupted, 143 terminated."
)
_LINGER_S = 1.0


class _Commands(TyperGroup):
    """The commands. What typer says of a wrong argument is printable: a shell's pattern may have put any file's name there."""

    def make_context(self, *args: Any, **settings: Any) -> Any:
        with _printable_mistakes():
            return super().make_context(*args, **settings)

    def invoke(self, ctx: Any) -> Any:
        with _printable_mistakes():
            return super().invoke(ctx)


@contextlib.contextmanager
def _printable_mistakes() -> Iterator[None]:
    try:
        yield
    except Exception as mistake:
        # Typer shows its errors itself, by what they have here; of other kinds are those that have no such thing.
        message = getattr(mistake, "message", None)
        if isinstance(message, str):
            mistake.message = printable(message)  # type: ignore[attr-defined]
        raise


app = typer.Typer(
    cls=_Commands,
    name="tutelage",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)
for command in (teach, learn, record, replay, inspect, watch, verify, repair, demo):
    app.command()(one_line_errors(command))
app.add_typer(stack, name="stack")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        say(f"tutelage {version('tutelage')}")
        raise typer.Exit


@app.callback()
def tutelage(
    verbose: Annotated[
        int,
        typer.Option(
            "-v", "--verbose", count=True, help="Say more; twice, what the Kafka client says too."
        ),
    ] = 0,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Moves knowledge from teacher models to a student model through Kafka and Avro, exactly once and in order."""
    configure_log(verbose)


def configure_log(verbose: int) -> None:
    """Print the log to standard error: warnings, with 1 what is done, with 2 or more what libraries say too."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    handler = logging.StreamHandler(sys.stderr)
    # Every library's log passes here.
    handler.setFormatter(
        LogFormat("%(message)s" if not verbose else "%(asctime)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=level, handlers=[handler])


def run() -> None:
    """The entry point: never a traceback for a user's mistake, never a hang after Ctrl-C."""
    end_on_sigterm()
    prepare_output()
    threading.excepthook = lambda raised: say_traceback(
        raised.exc_type, raised.exc_value, raised.exc_traceback
    )
    try:
        app()
    except Exception as error:
        say_traceback(type(error), error, error.__traceback__)
        _leave(1)
    except SystemExit as leaving:
        _leave(leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code)))


def _leave(code: int) -> None:
    """Exit, at once if a thread is still inside a forward pass or a broken loader: Python would wait for it."""
    code = flushed(code)
    if code == 0:
        sys.exit(0)
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(_LINGER_S)
    os._exit(code)
