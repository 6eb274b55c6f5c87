"""`tutelage stack`: runs a broker and a registry on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tutelage.cli.commands import COMMANDS, Command, CommandGroup
from tutelage.cli.exit_codes import one_line_errors
from tutelage.cli.printing import say
from tutelage.transport.addresses import BOOTSTRAP_VARIABLE, REGISTRY_VARIABLE

if TYPE_CHECKING:
    from tutelage.deploy.local import StackAddresses

stack = typer.Typer(
    cls=CommandGroup, no_args_is_help=True, help=COMMANDS["stack"], rich_markup_mode="rich"
)

FolderFlag = Annotated[
    Path | None,
    typer.Option(
        "--folder",
        metavar="FOLDER",
        help="Keep all files of the stack in this folder, which must hold nothing else. The "
        "default is a folder in the user's state directory (XDG_STATE_HOME).",
        show_default=False,
    ),
]
NOT_UP = 1


def stack_folder(given: Path | None) -> Path:
    """The folder that is given, or the user's: XDG_STATE_HOME/tutelage/stack."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return (given or state / "tutelage" / "stack").absolute()


@stack.command(cls=Command)
@one_line_errors
def up(
    brokers: Annotated[int, typer.Option(help="Run this many brokers: 1 or 3.")] = 1,
    port: Annotated[
        int, typer.Option(help="Let the first broker listen on this port; 0 takes a free one.")
    ] = 9092,
    registry_port: Annotated[
        int, typer.Option(help="Let the registry listen on this port; 0 takes a free one.")
    ] = 8081,
    folder: FolderFlag = None,
) -> None:
    """Start the broker and the registry, and wait until both answer.

    The first start fetches them with Maven (200 MB). A new stack needs a new or an empty folder,
    and makes it readable only by its user. A stack that was stopped, or that ended with a restart
    of the machine, continues with its topics, schemas and ports.

    [bold]Examples[/bold]

      tutelage stack up

      tutelage stack up --port 0 --registry-port 0 --folder /tmp/mine
    """
    from tutelage.deploy.local import Stack

    _print_addresses(
        Stack(stack_folder(folder)).up(
            brokers=brokers, kafka_port=port or None, registry_port=registry_port or None
        )
    )


@stack.command(cls=Command)
@one_line_errors
def down(folder: FolderFlag = None) -> None:
    """Stop the stack, and remove its topics, schemas and logs.

    What Maven fetched stays, and so do files that the stack did not write.
    """
    from tutelage.deploy.local import Stack

    running = Stack(stack_folder(folder))
    if not running.down():
        say(f"no stack was up in {running.folder}", error=True)
        return
    left = (
        f"; what the stack did not write stays in {running.folder}"
        if running.folder.exists()
        else ""
    )
    say(f"the stack is down{left}", error=True)


@stack.command(cls=Command)
@one_line_errors
def stop(folder: FolderFlag = None) -> None:
    """Stop the stack, and keep its topics and schemas for the next `up`.

    [bold]Examples[/bold]

      tutelage stack stop

      tutelage stack up
    """
    from tutelage.deploy.local import Stack

    running = Stack(stack_folder(folder))
    stopped = f"the stack is stopped; its data is kept in {running.folder}"
    say(stopped if running.stop() else f"no stack was up in {running.folder}", error=True)


@stack.command(cls=Command)
@one_line_errors
def status(folder: FolderFlag = None) -> None:
    """Print the addresses of the stack and its processes. The exit code is 1 if it is not up."""
    from tutelage.deploy.local import Stack

    running = Stack(stack_folder(folder))
    addresses = running.status()
    if addresses is None:
        kept = (
            "; its data is kept, and `tutelage stack up` continues with it"
            if running.is_kept()
            else ""
        )
        say(f"no stack is up in {running.folder}{kept}", error=True)
        raise typer.Exit(NOT_UP)
    _print_addresses(addresses)
    for name, pid in running.processes().items():
        say(f"# {name}: process {pid}, log {running.folder / (name + '.log')}")


@stack.command(cls=Command)
@one_line_errors
def node(
    action: Annotated[
        str,
        typer.Argument(
            metavar="kill|pause|resume|restart", help="What to do to one of the stack's processes."
        ),
    ],
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="The process: kafka-1, kafka-2, kafka-3 or registry."),
    ],
    folder: FolderFlag = None,
) -> None:
    """Kill, pause, resume or restart one process of the stack, to test how programs take a failure.

    [bold]Examples[/bold]

      tutelage stack node kill kafka-2

      tutelage stack node restart kafka-2
    """
    from tutelage.deploy.local import Stack
    from tutelage.schemas.errors import ConfigurationError

    running = Stack(stack_folder(folder))
    actions = {
        "kill": running.kill,
        "pause": running.pause,
        "resume": running.resume,
        "restart": running.restart,
    }
    if action not in actions:
        raise ConfigurationError(f"{action!r} is not one of {', '.join(actions)}")
    actions[action](name)
    if action == "restart":
        running.await_ready()


def _print_addresses(addresses: StackAddresses) -> None:
    say(f"export {BOOTSTRAP_VARIABLE}={addresses.bootstrap_servers}")
    say(f"export {REGISTRY_VARIABLE}={addresses.registry}")
