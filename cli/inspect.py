"""`tutelage inspect`: describes what a file or a topic holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tutelage.cli.kafka_flags import (
    BootstrapFlag,
    FileFlag,
    OptionFlag,
    RegistryFlag,
    RunFlag,
    kafka_settings,
)
from tutelage.cli.printing import say


def inspect(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="The file or the topic to inspect.")
    ],
    rows: Annotated[int, typer.Option(min=0, help="Show this many of the first rows.")] = 3,
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Compute the statistics from all rows instead of a sample of about 64 MB.",
        ),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE.png",
            help="Draw a histogram of each key's values to this file: PNG, SVG or PDF.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Wait at most this many seconds for a topic's first record.")
    ] = 10.0,
    print_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    run: RunFlag = None,
    bootstrap_server: BootstrapFlag = None,
    registry: RegistryFlag = None,
    command_config: FileFlag = None,
    x: OptionFlag = None,
) -> None:
    """Show who wrote a file or a topic, how much it holds, its values' statistics and first rows.

    Only a part is read: the block headers of a file and a sample from all over it, or the end of
    each partition of a topic and its first records. `tutelage verify` reads and checks everything.

    [bold]Examples[/bold]

      tutelage inspect teacher1.avro

      tutelage inspect teacher1 -b localhost:9092 --json

      tutelage inspect teacher1.avro --all --plot teacher1.png
    """
    from tutelage.cli.histogram_plot import check_plot, plot_histograms
    from tutelage.cli.inspection_table import print_inspection
    from tutelage.cli.sources import make_source
    from tutelage.cli.strict_json import as_json
    from tutelage.schemas.arguments import check_seconds
    from tutelage.tools.inspect import inspect as inspect_source
    from tutelage.tools.survey import SAMPLE_BYTES

    # Before the source is read, which may take long.
    picture = check_plot(plot) if plot is not None else None
    check_seconds("--timeout", timeout, zero=True)
    kafka = kafka_settings(bootstrap_server, registry, command_config, x)
    found = inspect_source(
        make_source(source, kafka, run=run),
        rows=rows,
        sample_bytes=None if everything else SAMPLE_BYTES,
        timeout_s=timeout,
    )
    if picture is not None:
        plot_histograms(found.name, found.statistics, picture)
    if print_json:
        say(as_json(found.as_dict()))
        return
    print_inspection(found)
    if picture is not None:
        say(f"histograms: {picture}", error=True)
