"""`tutelage verify`: checks that a file or a topic is complete and undamaged."""

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
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="The file or the topic to verify.")
    ],
    timeout: Annotated[
        float,
        typer.Option(
            help="Wait this many seconds for a topic's next record before it counts as missing."
        ),
    ] = 10.0,
    print_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    run: RunFlag = None,
    bootstrap_server: BootstrapFlag = None,
    registry: RegistryFlag = None,
    command_config: FileFlag = None,
    x: OptionFlag = None,
) -> None:
    """Read all of a file or a topic, and check every checksum, every number and each pass's end.

    The exit code is 5 if something is wrong or missing, and 6 if a topic's next record did not
    arrive in time. The message says where.

    [bold]Examples[/bold]

      tutelage verify teacher1.avro

      tutelage verify teacher1 -b localhost:9092
    """
    from tutelage.cli.printing import say
    from tutelage.cli.progress import Progress, format_amount
    from tutelage.cli.sources import make_source
    from tutelage.cli.strict_json import as_json
    from tutelage.schemas.arguments import check_seconds
    from tutelage.schemas.errors import TutelageError
    from tutelage.tools.in_order import Counts
    from tutelage.tools.verify import verify as verify_source

    check_seconds("--timeout", timeout, zero=True)
    kafka = kafka_settings(bootstrap_server, registry, command_config, x)
    read = make_source(source, kafka, run=run)
    seen = Counts()
    try:
        with Progress(f"verifying {read.name}") as progress:
            found = verify_source(
                read,
                timeout_s=timeout,
                progress=lambda c: progress.show(c.rows, c.records, "records", c.nbytes),
                counts=seen,
            )
            total = format_amount(seen.rows, seen.records, "records", seen.nbytes, progress.seconds)
    except TutelageError as error:
        if print_json:
            failed = {"source": read.name, "whole": False, "error": str(error)}
            say(as_json(failed | _counts(seen)))
        raise
    if print_json:
        passed = {"source": read.name, "whole": True, "run_id": found.stream.run_id}
        say(as_json(passed | _counts(seen)))
    else:
        dropped = f"; {seen.duplicates} duplicate records are ignored" if seen.duplicates else ""
        say(f"{read.name} is whole: {found.stream}, {seen.passes} passes, {total}{dropped}")


def _counts(seen: Counts) -> dict[str, int]:
    return {
        name: getattr(seen, name)
        for name in ("passes", "records", "rows", "nbytes", "duplicates", "zombies")
    }
