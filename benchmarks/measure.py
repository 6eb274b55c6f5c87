"""Alternating rounds, medians and ratios: on a shared machine only a ratio from one run means anything."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One side of a comparison: median, slowest and fastest of its rounds in MB/s (10^6 bytes of tensors), and its ratio."""

    what: str
    median: float
    slowest: float
    fastest: float
    ratio: float


def compared(sides: Mapping[str, Callable[[], float]], nbytes: int, *, rounds: int) -> list[Row]:
    """Run every side once a round, each round in turn; a side returns the seconds it took for `nbytes`.

    Ratios are medians of per-round ratios to the first side.
    """
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            rates[name].append(nbytes / 1e6 / side())
    base = next(iter(rates.values()))
    return [
        Row(
            what=name,
            median=statistics.median(found),
            slowest=min(found),
            fastest=max(found),
            ratio=statistics.median(one / other for one, other in zip(found, base, strict=True)),
        )
        for name, found in rates.items()
    ]


def shown(title: str, rows: list[Row]) -> None:
    """Print a comparison as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("side")
    for column in ("MB/s, median", "slowest", "fastest", f"ratio to {rows[0].what}"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(row.what, f"{row.median:,.0f}", f"{row.slowest:,.0f}", f"{row.fastest:,.0f}", f"{row.ratio:.2f}")
    Console(width=110).print(table)


def kept(results: Mapping[str, list[Row]], path: Path) -> None:
    """Write all comparisons as JSON."""
    path.write_text(
        json.dumps({name: [asdict(row) for row in rows] for name, rows in results.items()}, indent=1), encoding="utf-8"
    )
