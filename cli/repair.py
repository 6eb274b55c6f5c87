"""`tutelage repair`: saves the intact beginning of a damaged file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def repair(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="The file that is cut off or damaged, finished or partial."
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT.avro", help="The file to write the intact records to; it must not exist."
        ),
    ],
    print_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Save the intact beginning of a damaged file, and tell how to get the missing records.

    If the run is complete, the result is OUT.avro. Otherwise the result is OUT.avro.partial, which
    the teacher continues when it is started again with --out OUT.avro. The exit code is then 5.

    [bold]Example[/bold]

      tutelage repair teacher1.avro mended.avro
    """
    from tutelage.cli.printing import say
    from tutelage.cli.strict_json import as_json
    from tutelage.schemas.errors import DataError
    from tutelage.tools.repair import repair as save_intact

    found = save_intact(file, out)
    if print_json:
        say(as_json(found.as_json()))
    else:
        say(*found.said())
    if not found.complete:
        raise typer.Exit(DataError.exit_code)
