"""`tutelage`: the commands put together, and errors turned into one line and an exit code."""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import Annotated

import typer

from tutelage.cli.demo import demo
from tutelage.cli.failing import end_on_sigterm, flushed, one_line_errors
from tutelage.cli.inspect import inspect
from tutelage.cli.learn import learn
from tutelage.cli.printing import prepare_output, say
from tutelage.cli.record import record
from tutelage.cli.repair import repair
from tutelage.cli.replay import replay
from tutelage.cli.stack import stack
from tutelage.cli.teach import teach
from tutelage.cli.verify import verify
from tutelage.cli.watch import watch
from tutelage.transport.hiding import HidingFormatter

EPILOG = (
    "Exit codes: 0 done, 1 other, 2 wrong use, 3 schema, 4 broker, registry or disk, 5 data wrong or missing, "
    "6 waited in vain, 7 no local stack, 8 demo ran offline only, 130 interrupted, 143 terminated."
)
_LINGER_S = 1.0

app = typer.Typer(
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
        int, typer.Option("-v", "--verbose", count=True, help="Say more; twice, what the Kafka client says too.")
    ] = 0,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Moves knowledge from teacher models to a student model through Kafka and Avro, exactly once and in order."""
    configure_log(verbose)


def configure_log(verbose: int) -> None:
    """Print the log to standard error: warnings, with 1 what is done, with 2 or more what libraries say too."""
    output = logging.StreamHandler(sys.stderr)
    # Every library's log passes here.
    output.setFormatter(HidingFormatter("%(message)s" if not verbose else "%(asctime)s %(name)s: %(message)s"))
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, handlers=[output])


def run() -> None:
    """The entry point: never a traceback for a user's mistake, never a hang after Ctrl-C."""
    end_on_sigterm()
    prepare_output()
    try:
        app()
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
