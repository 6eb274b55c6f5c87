"""The entry point of `tutelage`: flags that all commands share, the log, the process's end."""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import Annotated

import typer

from tutelage.cli.commands import AllCommands
from tutelage.cli.exit_codes import flush_output, raise_on_sigterm
from tutelage.cli.printing import LogFormat, prepare_output, say, say_traceback

EPILOG = (
    "Exit codes: 0 success, 1 unexpected error, 2 wrong usage, 3 schema error, "
    "4 broker, registry or disk failed, 5 data wrong or missing, 6 timeout, "
    "7 no local stack, 8 demo ran offline only, 130 interrupted, 143 terminated."
)
# How long other threads get to end after an error.
_LINGER_S = 1.0

app = typer.Typer(
    cls=AllCommands,
    name="tutelage",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)


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
            "-v",
            "--verbose",
            count=True,
            help="Print more of the log; given twice, also the log of the Kafka client.",
        ),
    ] = 0,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Move knowledge from teacher models to a student model through Kafka and Avro.

    Every row arrives exactly once and in order.
    """
    configure_log(verbose)


def configure_log(verbose: int) -> None:
    """Print the log to standard error.

    Args:
        verbose: 0 for warnings, 1 also for what is done, 2 or more also for what libraries log.
    """
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    # The root logger's handler, so that the records of every library are formatted, too.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        LogFormat("%(message)s" if not verbose else "%(asctime)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=level, handlers=[handler])


def run() -> None:
    """Run the command line. A user's mistake shows no traceback, and Ctrl-C never hangs."""
    raise_on_sigterm()
    prepare_output()
    threading.excepthook = lambda raised: say_traceback(
        raised.exc_type, raised.exc_value, raised.exc_traceback
    )
    try:
        app()
    except Exception as error:
        say_traceback(type(error), error, error.__traceback__)
        _exit(1)
    except SystemExit as leaving:
        _exit(leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code)))


def _exit(code: int) -> None:
    """Exit. After an error, do not wait for a thread in a forward pass or in a hung loader."""
    code = flush_output(code)
    if code == 0:
        sys.exit(0)
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(_LINGER_S)
    os._exit(code)
