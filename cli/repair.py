"""`tutelage repair`: the whole prefix of a damaged file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def repair(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A file that is cut or damaged, finished or partial."),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT.avro", help="Where what is whole of it goes; must not be there."
        ),
    ],
    print_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write what is whole of a damaged file, from its beginning on, and say what is missing and how to get it.

    A file whose run is complete becomes OUT.avro. Else what is whole becomes OUT.avro.partial, which its teacher goes on with when it is started
    again with --out OUT.avro. Exits with 5 where something is missing.

    [bold]Example[/bold]

      tutelage repair teacher1.avro mended.avro
    """
    from tutelage.cli.printing import say
    from tutelage.cli.strict_json import as_json
    from tutelage.tools.repair import repair as write_whole

    found = write_whole(file, out)
    if print_json:
        say(as_json(found.as_json()))
    else:
        say(*found.said())
    if not found.complete:
        raise typer.Exit(5)
