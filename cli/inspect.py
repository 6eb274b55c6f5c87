"""`tutelage inspect`: what is inside a source."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tutelage.cli.kafka_flags import (
    BootstrapFlag,
    FileFlag,
    OptionFlag,
    RegistryFlag,
    RunFlag,
    kafka_settings,
)
from tutelage.cli.printing import draw, is_shown, line, say
from tutelage.schemas.printable import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tutelage.tools.inspect import Inspected
    from tutelage.tools.key_statistics import KeyStatistics
    from tutelage.tools.survey import RunSummary, Survey

# Of a long row so many numbers are shown.
_SHOWN = 6
_PLOTS = (".png", ".svg", ".pdf")
# A picture may be so high, in dots, and no higher.
_DRAWN_AT_MOST = 200
# Matplotlib finds no ticks for the largest numbers.
_TICKS_BELOW = 1e300
# Of a long key so many characters stand above its histogram.
_TITLE = 80


def inspect(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A file or a topic.")],
    rows: Annotated[int, typer.Option(min=0, help="Show so many of the first rows.")] = 3,
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Read all of it for the statistics, not a sample of about 64 MB."
        ),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE.png", help="Draw each key's histogram.", show_default=False
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds to wait for a topic's first record.")
    ] = 10.0,
    print_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    run: RunFlag = None,
    bootstrap_server: BootstrapFlag = None,
    registry: RegistryFlag = None,
    command_config: FileFlag = None,
    x: OptionFlag = None,
) -> None:
    """Say who wrote a file or topic, how much it holds, what its values are like, and show its first rows.

    Reads what it must: a file's heads and a sample spread over it, a topic's ends and its first records. `verify` reads all and checks.

    [bold]Examples[/bold]

      tutelage inspect teacher1.avro

      tutelage inspect teacher1 -b localhost:9092 --json

      tutelage inspect teacher1.avro --all --plot teacher1.png
    """
    from tutelage.cli.sources import source_of
    from tutelage.cli.strict_json import as_json
    from tutelage.schemas.arguments import absolute_path, check_seconds
    from tutelage.schemas.errors import ConfigurationError
    from tutelage.tools.inspect import inspect as look_into
    from tutelage.tools.survey import SAMPLE_BYTES

    if plot is not None:
        try:
            import matplotlib  # noqa: F401
        except ImportError as error:
            raise ConfigurationError(
                "--plot needs matplotlib: pip install 'tutelage[demo]'"
            ) from error
        if plot.suffix.lower() not in _PLOTS:
            raise ConfigurationError(f"--plot {plot}: name a file that ends in {', '.join(_PLOTS)}")
        if not os.path.isdir(plot.parent):
            raise ConfigurationError(f"--plot {plot}: there is no folder {plot.parent}")
        if os.path.isdir(plot):
            raise ConfigurationError(f"--plot {plot} is a folder; name a file in it")
        plot = absolute_path("--plot", plot)
    check_seconds("--timeout", timeout, zero=True)
    read = source_of(source, kafka_settings(bootstrap_server, registry, command_config, x), run=run)
    found = look_into(
        read, rows=rows, sample_bytes=None if everything else SAMPLE_BYTES, timeout_s=timeout
    )
    if plot is not None:
        _draw(found.name, found.statistics, plot)
    if print_json:
        say(as_json(found.as_dict()))
    else:
        _print(found)
        if plot is not None:
            say(f"histograms: {plot}", error=True)


def _print(found: Inspected) -> None:
    from rich.table import Table

    survey = found.survey
    stream = survey.info.stream
    drawn: list[RenderableType] = [line(found.name, "bold")]
    cut = f"{stream.passes} passes, {stream.partitions} partitions, {stream.rows_per_record} rows per record"
    for label, value in (
        ("teacher", stream.teacher),
        (
            "run",
            f"{stream.run_id}, created {_date_of(stream.created)} by tutelage {stream.version}",
        ),
        ("revision", stream.revision),
        ("inputs", stream.inputs_fingerprint),
        ("cut in", cut),
        ("holds", _holds(survey)),
        (
            "offsets",
            "  ".join(f"{at}: {low}-{end}" for at, (low, end) in enumerate(survey.partitions)),
        ),
        ("not whole", survey.flaw or ""),
    ):
        if value:
            drawn.append(line(f"  {label:10} {value}", "red" if label == "not whole" else ""))
    for index, run in enumerate(survey.runs if len(survey.runs) > 1 else ()):
        drawn.append(line(f"  {'' if index else 'runs':10} {_said_of_run(run)}"))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("  key", "values", "min", "mean", "max", "NaN, inf", "histogram"):
        numeric = title in ("min", "mean", "max", "NaN, inf")
        table.add_column(
            title, justify="right" if numeric else "left", no_wrap=title not in ("  key", "values")
        )
    for spec in survey.info.description.specs:
        values = found.statistics[spec.key]
        odd = (values.nan + values.infinite) / values.count if values.count else 0.0
        lengths = f", {values.lengths[0]} to {values.lengths[1]} long" if values.lengths else ""
        numbers = [
            f"{number:.4g}" if number is not None else ""
            for number in (values.low, values.mean, values.high)
        ]
        table.add_row(
            line(f"  {spec.key}"),
            line(f"{spec}{lengths}"),
            *numbers,
            f"{odd:.2%}" if odd else "0",
            values.sparkline(is_shown),
        )
    drawn.append(table)
    whole = survey.records is not None and found.records >= survey.records
    of = f"{'all' if whole else 'a sample of'} {found.rows:,} rows in {found.records:,} records"
    drawn.append(line(f"  statistics of {of}{'' if whole else '; --all reads all'}"))
    draw(*drawn, *(line(f"  {_said(row)}") for row in found.first_rows))


def _said_of_run(run: RunSummary) -> str:
    whole = "whole" if run.whole else "not whole"
    passes = f"{run.passes_ended} of {run.passes} passes"
    return f"{run.run_id}  teacher {run.teacher}, begun {_date_of(run.created)}, {run.rows:,} rows, {passes}, {whole}"


def _date_of(created: float) -> str:
    """When a run was begun, as its writer says: any number may stand there."""
    from datetime import UTC, datetime

    try:
        return datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"at {created} s, which is no date,"


def _holds(survey: Survey) -> str:
    from rich.filesize import decimal

    parts = (
        [f"{survey.passes_ended} of {survey.info.stream.passes} passes"]
        if survey.passes_ended is not None
        else []
    )
    parts += [f"{survey.rows:,} rows"] if survey.rows is not None else []
    parts += [f"{survey.records:,} records"] if survey.records is not None else []
    parts += [decimal(survey.nbytes)] if survey.nbytes is not None else []
    if survey.rows is not None and survey.seconds:
        parts.append(f"written at {survey.rows / survey.seconds:,.0f} rows/s")
    return ", ".join(parts)


def _said(row: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_short(value)}" for key, value in row.items())


def _short(value: Any) -> str:
    if not isinstance(value, list):
        return f"{value:.4g}" if isinstance(value, float) else str(value)
    more = f", {'…' if is_shown('…') else '...'} {len(value)}" if len(value) > _SHOWN else ""
    return f"[{', '.join(_short(item) for item in value[:_SHOWN])}{more}]"


def _draw(name: str, statistics: dict[str, KeyStatistics], file: Path) -> None:
    import warnings

    import matplotlib

    from tutelage.schemas.errors import ConfigurationError

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = dict(list(statistics.items())[:_DRAWN_AT_MOST])
    if len(drawn) < len(statistics):
        say(f"--plot draws the first {len(drawn)} of {len(statistics):,} keys", error=True)
    figure, axes = pyplot.subplots(
        len(drawn), 1, figsize=(7, 2.2 * len(drawn)), squeeze=False, layout="constrained"
    )
    for axis, (key, found) in zip(axes[:, 0], drawn.items(), strict=True):
        counts, edges = found.histogram()
        if abs(edges).max() < _TICKS_BELOW:
            axis.stairs(counts, edges, fill=True)
        else:
            axis.stairs(counts, range(len(edges)), fill=True)
            axis.set_xticks([0, len(counts)], [f"{edge:.4g}" for edge in (edges[0], edges[-1])])
        # Keys are any text, and none of it is a formula.
        shown = printable(key)
        title = shown if len(shown) <= _TITLE else f"{shown[:_TITLE]}..."
        axis.set_title(
            f"{title}: {found.count:,} values", fontsize=10, loc="left", parse_math=False
        )
        axis.set_yticks([])
    figure.suptitle(
        printable(os.fsencode(name).decode(errors="backslashreplace")), parse_math=False
    )
    try:
        with warnings.catch_warnings():
            # Characters that the font lacks are drawn as boxes.
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            figure.savefig(file, dpi=120)
    except OSError as error:
        raise ConfigurationError(f"--plot {file} cannot be written: {error.strerror}") from error
    finally:
        pyplot.close(figure)
