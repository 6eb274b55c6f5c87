"""`tutelage watch`: a live screen of topics, their teachers and their reader."""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from tutelage.cli.failing import TERMINATED
from tutelage.cli.kafka_flags import (
    BootstrapFlag,
    FileFlag,
    OptionFlag,
    RegistryFlag,
    kafka_settings,
)
from tutelage.cli.printing import say

if TYPE_CHECKING:
    from tutelage.tools.watch import Watcher

_DRIVER_VARIABLE = "TEXTUAL_DRIVER"
_HINT = "the screen needs textual: pip install 'tutelage[watch]'; --json needs nothing"


def watch(
    topics: Annotated[
        list[str], typer.Argument(metavar="TOPIC...", help="Topics that teachers write.")
    ],
    group: Annotated[
        str | None,
        typer.Option(
            help="The student's consumer group (learn --group): how far it has read. Unless given: the only one that reads them.",
            show_default=False,
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where a student shows its metrics (learn --metrics-port); may be repeated.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[
        float, typer.Option(min=0.2, max=3600.0, help="Seconds between two looks.")
    ] = 1.0,
    web: Annotated[
        bool,
        typer.Option(
            "--web",
            help="Show the same screen in the browser of this machine, at an address that is printed.",
        ),
    ] = False,
    web_port: Annotated[int, typer.Option(help="Where the browser finds it.")] = 8000,
    print_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Look twice, print what was seen as JSON, and end; with 1 if not all could be looked at.",
        ),
    ] = False,
    bootstrap_server: BootstrapFlag = None,
    registry: RegistryFlag = None,
    command_config: FileFlag = None,
    x: OptionFlag = None,
) -> None:
    """Watch topics live: is the student starving, which teacher is the slow one, how far behind is it, is anything dropped.

    [bold]Examples[/bold]

      tutelage watch teacher1 teacher2 --group student

      tutelage watch teacher1 teacher2 --group student --metrics localhost:9404 --web
    """
    from tutelage.schemas.arguments import check_seconds, check_whole_number
    from tutelage.schemas.errors import ConfigurationError
    from tutelage.schemas.topic import check_topic
    from tutelage.tools.watch import Watcher
    from tutelage.transport.connection import KafkaConnection

    check_seconds("--every", every)
    check_whole_number("--web-port", web_port, most=65535)
    kafka = kafka_settings(bootstrap_server, registry, command_config, x)
    names = [check_topic(topic.removeprefix("topic:")) for topic in topics]
    # The server runs this very command for each browser, with the variable set.
    if web and _DRIVER_VARIABLE not in os.environ:
        _serve(web_port)
        return
    if not print_json:
        try:
            from tutelage.cli.watch_screen import WatchScreen
        except ImportError as error:
            raise ConfigurationError(_HINT) from error
        # textual-serve has no terminal, and says by this how to draw.
        if not sys.stdout.isatty() and _DRIVER_VARIABLE not in os.environ:
            raise ConfigurationError(
                "watch draws on a terminal, and this is none; --json prints what it sees"
            )
    if web:
        _end_with(os.getppid())
    connection = KafkaConnection(**kafka.arguments(), client_id="tutelage-watch")
    watcher = Watcher(connection, names, group=group, metrics=metrics or ())
    try:
        if print_json:
            _print_json(watcher, every)
        else:
            screen = WatchScreen(
                watcher.look, every_s=every, title=f"tutelage watch {' '.join(names)}"
            )
            screen.run()
            if screen.return_code:
                raise typer.Exit(screen.return_code)
    finally:
        watcher.close()


def _print_json(watcher: Watcher, every_s: float) -> None:
    from tutelage.cli.strict_json import as_json
    from tutelage.tools.verdicts import verdicts

    # Rates need two looks.
    watcher.look()
    time.sleep(every_s)
    view = watcher.look()
    said = [{"how": how, "said": line} for how, line in verdicts(view)]
    say(as_json({**asdict(view), "verdicts": said}))
    if view.trouble:
        raise typer.Exit(1)


def _end_with(server: int) -> None:
    """End this process once the server that started it is gone: nobody sees its screen any more, however the server ended."""

    def look() -> None:
        while os.getppid() == server:
            time.sleep(1)
        os._exit(TERMINATED)

    threading.Thread(target=look, name="tutelage-server", daemon=True).start()


def _serve(port: int) -> None:
    from tutelage.schemas.errors import ConfigurationError

    try:
        from tutelage.cli.watch_web import WatchServer
    except ImportError as error:
        raise ConfigurationError(_HINT) from error
    WatchServer(sys.argv, port=port).serve()
