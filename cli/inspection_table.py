"""Prints the result of `tutelage inspect` for people: the run, a table of keys, the first rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tutelage.cli.printing import draw, is_shown, line

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from tutelage.tools.inspect import Inspected
    from tutelage.tools.survey import RunSummary, Survey

# A longer list of numbers is cut off.
_MOST_NUMBERS = 6
_TEXT_COLUMNS = ("  key", "values")
_NUMBER_COLUMNS = ("min", "mean", "max", "NaN, inf")


def print_inspection(found: Inspected) -> None:
    """Print what was found."""
    whole = found.survey.records is not None and found.records >= found.survey.records
    read = (
        f"  statistics of {'all' if whole else 'a sample of'} {found.rows:,} rows "
        f"in {found.records:,} records{'' if whole else '; --all reads all'}"
    )
    draw(
        line(found.name, "bold"),
        *_run_lines(found.survey),
        _keys_table(found),
        line(read),
        *(line(f"  {_format_row(row)}") for row in found.first_rows),
    )


def _run_lines(survey: Survey) -> Iterator[Text]:
    """What is known of the run, and a line for each run if there are several."""
    stream = survey.info.stream
    created = f"created {_format_date(stream.created)} by tutelage {stream.version}"
    offsets = (f"{index}: {low}-{end}" for index, (low, end) in enumerate(survey.partitions))
    for label, value in (
        ("teacher", stream.teacher),
        ("run", f"{stream.run_id}, {created}"),
        ("revision", stream.revision),
        ("inputs", stream.inputs_fingerprint),
        (
            "layout",
            f"{stream.passes} passes, {stream.partitions} partitions, "
            f"{stream.rows_per_record} rows per record",
        ),
        ("holds", _format_amounts(survey)),
        ("offsets", "  ".join(offsets)),
        ("not whole", survey.flaw or ""),
    ):
        if value:
            yield line(f"  {label:10} {value}", "red" if label == "not whole" else "")
    for index, run in enumerate(survey.runs if len(survey.runs) > 1 else ()):
        yield line(f"  {'' if index else 'runs':10} {_format_run(run)}")


def _keys_table(found: Inspected) -> Table:
    """A row for each key: its type and the statistics of its values."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in (*_TEXT_COLUMNS, *_NUMBER_COLUMNS, "histogram"):
        table.add_column(
            title,
            justify="right" if title in _NUMBER_COLUMNS else "left",
            no_wrap=title not in _TEXT_COLUMNS,
        )
    for spec in found.survey.info.description.specs:
        values = found.statistics[spec.key]
        odd = (values.nan + values.infinite) / values.count if values.count else 0.0
        lengths = f", {values.lengths[0]} to {values.lengths[1]} long" if values.lengths else ""
        entries = (
            f", {values.entries / values.positions:.1f} entries a position; the numbers are "
            f"of the {values.measure}"
            if values.positions
            else ""
        )
        numbers = [
            f"{number:.4g}" if number is not None else ""
            for number in (values.low, values.mean, values.high)
        ]
        table.add_row(
            line(f"  {spec.key}"),
            line(f"{spec}{lengths}{entries}"),
            *numbers,
            f"{odd:.2%}" if odd else "0",
            values.sparkline(is_shown),
        )
    return table


def _format_run(run: RunSummary) -> str:
    return (
        f"{run.run_id}  teacher {run.teacher}, created {_format_date(run.created)}, "
        f"{run.rows:,} rows, {run.passes_ended} of {run.passes} passes, "
        f"{'whole' if run.whole else 'not whole'}"
    )


def _format_date(created: float) -> str:
    """The time at which a run was created, as its writer says. It may be any number."""
    from datetime import UTC, datetime

    try:
        return datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"at {created} s, which is no date,"


def _format_amounts(survey: Survey) -> str:
    """How much the source holds, as far as that is known without reading all of it."""
    from rich.filesize import decimal

    parts: list[str] = []
    if survey.passes_ended is not None:
        parts.append(f"{survey.passes_ended} of {survey.info.stream.passes} passes")
    if survey.rows is not None:
        parts.append(f"{survey.rows:,} rows")
    if survey.records is not None:
        parts.append(f"{survey.records:,} records")
    if survey.nbytes is not None:
        parts.append(decimal(survey.nbytes))
    if survey.rows is not None and survey.seconds:
        parts.append(f"written at {survey.rows / survey.seconds:,.0f} rows/s")
    return ", ".join(parts)


def _format_row(row: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_format_value(value)}" for key, value in row.items())


def _format_value(value: Any) -> str:
    """A value as text; a long list with its first numbers and its length."""
    if not isinstance(value, list):
        return f"{value:.4g}" if isinstance(value, float) else str(value)
    more = ""
    if len(value) > _MOST_NUMBERS:
        more = f", {'…' if is_shown('…') else '...'} {len(value)}"
    return f"[{', '.join(_format_value(item) for item in value[:_MOST_NUMBERS])}{more}]"
