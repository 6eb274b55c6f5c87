"""`tutelage inspect`: what is inside a source."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tutelage.cli.kafka_flags import BootstrapFlag, FileFlag, OptionFlag, RegistryFlag, kafka_settings


def inspect(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A file or a topic.")],
    timeout: Annotated[float, typer.Option(help="Seconds to wait for a topic's first record.")] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    bootstrap_server: BootstrapFlag = None,
    registry: RegistryFlag = None,
    command_config: FileFlag = None,
    x: OptionFlag = None,
) -> None:
    """Say who wrote a file or topic, what its batches hold and how it is cut; reads its first record only.

    [bold]Examples[/bold]

      tutelage inspect teacher1.avro

      tutelage inspect teacher1 -b localhost:9092 --json
    """
    from dataclasses import asdict
    from datetime import UTC, datetime

    from tutelage.cli.sources import source_of

    opened_source = source_of(source, kafka_settings(bootstrap_server, registry, command_config, x))
    try:
        opened = opened_source.open(timeout)
    finally:
        opened_source.close()
    stream = asdict(opened.stream)
    keys = {spec.key: {"dtype": spec.dtype, "shape": list(spec.shape), "wire": spec.wire} for spec in opened.description.specs}
    if as_json:
        typer.echo(json.dumps({"source": opened_source.name, **stream, "keys": keys}, ensure_ascii=False))
        return
    created = datetime.fromtimestamp(opened.stream.created, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    typer.echo(opened_source.name)
    for name, value in {**stream, "created": created}.items():
        if value != "":
            typer.echo(f"  {name.replace('_', ' '):16} {value}")
    typer.echo("  keys")
    for spec in opened.description.specs:
        typer.echo(f"    {spec.key!r}: {spec}")
