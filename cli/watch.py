"""`tutelage watch`: shows topics, their teachers and their student on a live screen."""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from tutelage.cli.exit_codes import TERMINATED
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

# textual-serve sets it for the process of each browser.
_DRIVER_VARIABLE = "TEXTUAL_DRIVER"
_HINT = "the screen needs textual: pip install 'tutelage[watch]'; --json does not"


def watch(
    topics: Annotated[
        list[str], typer.Argument(metavar="TOPIC...", help="The topics that the teachers write.")
    ],
    group: Annotated[
        str | None,
        typer.Option(
            help="Show how far this consumer group has read: the student's (learn --group). "
            "Without it, the only group that reads the topics.",
            show_default=False,
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Read the metrics of a student or a replica from this address (--metrics-port of "
            "learn and teach); may be repeated.",
            show_default=False,
        ),
    ] = None,
    queries: Annotated[
        str | None,
        typer.Option(
            metavar="TOPIC",
            help="Show who answers the queries in this topic (teach --queries). Without it, those "
            "in TOPIC.queries, where that topic exists.",
            show_default=False,
        ),
    ] = None,
    replicas: Annotated[
        str | None,
        typer.Option(
            metavar="GROUP",
            help="Show this group of replicas. Without it, tutelage-TOPIC.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[
        float, typer.Option(min=0.2, max=3600.0, help="Refresh the screen every this many seconds.")
    ] = 1.0,
    web: Annotated[
        bool,
        typer.Option(
            "--web",
            help="Show the screen in a browser on this machine, at the address that is printed.",
        ),
    ] = False,
    web_port: Annotated[
        int, typer.Option(help="With --web, serve the screen on this port.")
    ] = 8000,
    print_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Instead of a screen, print the state as JSON once, after two measurements. The "
            "exit code is 1 if a part could not be measured.",
        ),
    ] = False,
    bootstrap_server: BootstrapFlag = None,
    registry: RegistryFlag = None,
    command_config: FileFlag = None,
    x: OptionFlag = None,
) -> None:
    """Show topics, their teachers and their student on a live screen.

    It answers whether the student waits for batches, which teacher is the slowest, how far behind
    the student is, and whether anything is dropped. For teachers that answer queries, it shows
    which replicas answer and which queries wait.

    [bold]Examples[/bold]

      tutelage watch teacher1 teacher2 --group student

      tutelage watch teacher1 teacher2 --group student --metrics localhost:9405 --web
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
    if queries is not None:
        check_topic(queries)
    if replicas is not None and len(names) > 1:
        raise ConfigurationError(
            f"--replicas names the group of one teacher, and {len(names)} topics are given"
        )
    # The server runs this command again for each browser, with the variable set.
    if web and _DRIVER_VARIABLE not in os.environ:
        _serve(web_port)
        return
    if not print_json:
        try:
            from tutelage.cli.watch_screen import WatchScreen
        except ImportError as error:
            raise ConfigurationError(_HINT) from error
        if not sys.stdout.isatty() and _DRIVER_VARIABLE not in os.environ:
            raise ConfigurationError(
                "watch needs a terminal, and standard output is not one; use --json"
            )
    if web:
        _exit_with(os.getppid())
    connection = KafkaConnection(**kafka.arguments(), client_id="tutelage-watch")
    watcher = Watcher(
        connection,
        names,
        group=group,
        metrics=metrics or (),
        queries=queries,
        replicas=replicas,
    )
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

    # A rate needs two measurements.
    watcher.look()
    time.sleep(every_s)
    view = watcher.look()
    found = [{"how": how, "said": line} for how, line in verdicts(view)]
    say(as_json({**asdict(view), "verdicts": found}))
    if view.trouble:
        raise typer.Exit(1)


def _exit_with(server: int) -> None:
    """Exit when the server that started this process has ended: nobody sees the screen then."""

    def poll() -> None:
        while os.getppid() == server:
            time.sleep(1)
        os._exit(TERMINATED)

    threading.Thread(target=poll, name="tutelage-server", daemon=True).start()


def _serve(port: int) -> None:
    from tutelage.schemas.errors import ConfigurationError

    try:
        from tutelage.cli.watch_web import WatchServer
    except ImportError as error:
        raise ConfigurationError(_HINT) from error
    WatchServer(sys.argv, port=port).serve()
