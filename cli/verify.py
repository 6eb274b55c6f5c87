"""`tutelage verify`: is a source whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tutelage.cli.kafka_flags import (
    BootstrapFlag,
    FileFlag,
    OptionFlag,
    RegistryFlag,
    RunFlag,
    kafka_settings,
)

if TYPE_CHECKING:
    from tutelage.tools.in_order import Counts


def verify(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A file or a topic.")],
    timeout: Annotated[
        float,
        typer.Option(help="Seconds to wait for a topic's next record before it counts as missing."),
    ] = 10.0,
    print_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    run: RunFlag = None,
    bootstrap_server: BootstrapFlag = None,
    registry: RegistryFlag = None,
    command_config: FileFlag = None,
    x: OptionFlag = None,
) -> None:
    """Read all of a file or topic, check every checksum, number and end, and say so; or where it is not whole, and exit with 5 or 6.

    [bold]Examples[/bold]

      tutelage verify teacher1.avro

      tutelage verify teacher1 -b localhost:9092
    """
    from tutelage.cli.printing import say
    from tutelage.cli.progress import Progress, said
    from tutelage.cli.sources import source_of
    from tutelage.cli.strict_json import as_json
    from tutelage.schemas.arguments import check_seconds
    from tutelage.schemas.errors import TutelageError
    from tutelage.tools.in_order import Counts
    from tutelage.tools.verify import verify as look_through

    check_seconds("--timeout", timeout, zero=True)
    read = source_of(source, kafka_settings(bootstrap_server, registry, command_config, x), run=run)
    seen = Counts()
    try:
        with Progress(f"verifying {read.name}") as progress:
            found = look_through(
                read,
                timeout_s=timeout,
                progress=lambda c: progress.show(c.rows, c.records, "records", c.nbytes),
                counts=seen,
            )
            total = said(seen.rows, seen.records, "records", seen.nbytes, progress.seconds)
    except TutelageError as error:
        if print_json:
            say(
                as_json({"source": read.name, "whole": False, "error": str(error), **_counts(seen)})
            )
        raise
    if print_json:
        say(
            as_json(
                {"source": read.name, "whole": True, "run_id": found.stream.run_id, **_counts(seen)}
            )
        )
    else:
        dropped = f"; {seen.duplicates} duplicate records are ignored" if seen.duplicates else ""
        say(f"{read.name} is whole: {found.stream}, {seen.passes} passes, {total}{dropped}")


def _counts(seen: Counts) -> dict[str, int]:
    return {
        name: getattr(seen, name)
        for name in ("passes", "records", "rows", "nbytes", "duplicates", "zombies")
    }
