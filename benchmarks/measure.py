"""Alternating rounds, medians and ratios.

On a shared machine only ratios from one run are meaningful.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One run of one side.

    Args:
        seconds: How long it took.
        nbytes: Bytes of tensors that were moved.
        units: Batches that were moved.
        cpu_s: CPU seconds by process.
        peak_rss: Peak resident memory by process, in bytes.
    """

    seconds: float
    nbytes: int
    units: int
    cpu_s: Mapping[str, float] = field(default_factory=dict)
    peak_rss: Mapping[str, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.nbytes / self.seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """A ratio to another side that should be reached.

    Args:
        other: The other side's name.
        at_least: The smallest ratio that meets the goal.
        at_most: The largest ratio that meets the goal.
        what: What the ratio is of: "rate" (bytes per second), "units" (batches per second), "cpu"
            (CPU seconds per byte) or "seconds".
    """

    other: str
    at_least: float | None = None
    at_most: float | None = None
    what: str = "rate"


@dataclass(kw_only=True, slots=True)
class Side:
    """One side of a comparison, with its goals and samples."""

    name: str
    run: Callable[[], Sample]
    goals: tuple[Goal, ...] = ()
    samples: list[Sample] = field(default_factory=list)

    def median(self, value: Callable[[Sample], float]) -> float:
        """The median of a value over the rounds."""
        return statistics.median(map(value, self.samples))

    def ratio(self, other: Side, value: Callable[[Sample], float]) -> float:
        """The median of the rounds' ratios to another side."""
        return statistics.median(
            value(mine) / value(theirs)
            for mine, theirs in zip(self.samples, other.samples, strict=True)
            if value(theirs)
        )


#: The values that a goal may be about.
VALUES: dict[str, Callable[[Sample], float]] = {
    "rate": lambda sample: sample.rate,
    "units": lambda sample: sample.units / sample.seconds,
    "cpu": lambda sample: sum(sample.cpu_s.values()) / sample.nbytes,
    "seconds": lambda sample: sample.seconds,
}


@dataclass(kw_only=True, slots=True)
class Comparison:
    """Sides that do the same work, measured alternately.

    Args:
        title: The comparison's title.
        sides: The sides. Ratios are to the first.
        times: Whether the result is seconds instead of bytes per second.
    """

    title: str
    sides: list[Side]
    times: bool = False

    def measured(self, rounds: int) -> Comparison:
        """Run every side once per round. Each round begins with another side."""
        for round_ in range(rounds):
            for index in range(len(self.sides)):
                side = self.sides[(index + round_) % len(self.sides)]
                side.samples.append(_checked(side.name, side.run()))
        return self

    def side(self, name: str) -> Side:
        """The side of this name."""
        return next(side for side in self.sides if side.name == name)

    def verdicts(self) -> list[str]:
        """A line for each goal: the ratio, and whether it was met."""
        lines: list[str] = []
        for side in self.sides:
            for goal in side.goals:
                ratio = side.ratio(self.side(goal.other), VALUES[goal.what])
                met = (goal.at_least is None or ratio >= goal.at_least) and (
                    goal.at_most is None or ratio <= goal.at_most
                )
                wanted = (
                    f">= {goal.at_least:g}" if goal.at_least is not None else f"<= {goal.at_most:g}"
                )
                what = {
                    "rate": "",
                    "units": " in batches/s",
                    "cpu": " in CPU per byte",
                    "seconds": " in seconds",
                }[goal.what]
                verdict = "met" if met else "MISSED"
                lines.append(
                    f"{side.name} to {goal.other}{what}: {ratio:.2f} ({wanted}: {verdict})"
                )
        return lines

    def as_json(self) -> dict[str, Any]:
        """The comparison as plain values."""
        first = self.sides[0]
        return {
            "title": self.title,
            "goals": self.verdicts(),
            "sides": [
                {
                    "name": side.name,
                    "bytes_per_s": side.median(VALUES["rate"]),
                    "units_per_s": side.median(VALUES["units"]),
                    "ratio": side.ratio(first, VALUES["rate"]),
                    "samples": [asdict(sample) for sample in side.samples],
                }
                for side in self.sides
            ],
        }


def _checked(side: str, sample: Sample) -> Sample:
    """The sample. Raises ValueError if it means nothing."""
    if not (math.isfinite(sample.seconds) and sample.seconds > 0):
        raise ValueError(f"{side!r} took {sample.seconds} seconds")
    if sample.nbytes <= 0 or sample.units <= 0:
        raise ValueError(f"{side!r} moved {sample.units} batches of {sample.nbytes} bytes together")
    return sample


def print_comparison(comparison: Comparison) -> None:
    """Print a comparison as a table, with its goals below."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=140)
    first = comparison.sides[0]
    if comparison.times:
        table = Table(
            "side", "milliseconds", "fastest-slowest", title=comparison.title, title_justify="left"
        )
        for side in comparison.sides:
            times = sorted(sample.seconds * 1e3 for sample in side.samples)
            table.add_row(
                side.name, f"{statistics.median(times):,.1f}", f"{times[0]:,.1f}-{times[-1]:,.1f}"
            )
        console.print(table)
        for verdict in comparison.verdicts():
            console.print(f"  {verdict}", highlight=False)
        return
    table = Table(title=comparison.title, title_justify="left")
    table.add_column("side")
    for column in ("MB/s", "slowest-fastest", "batches/s", "ratio", "CPU s/GB", "peak RSS, MB"):
        table.add_column(column, justify="right")
    for side in comparison.sides:
        rates = [sample.rate / 1e6 for sample in side.samples]
        peaks = {
            name: max(sample.peak_rss.get(name, 0) for sample in side.samples)
            for name in side.samples[0].peak_rss
        }
        cpu = side.median(VALUES["cpu"]) * 1e9
        table.add_row(
            side.name,
            _short(statistics.median(rates)),
            f"{_short(min(rates))}-{_short(max(rates))}",
            f"{side.median(VALUES['units']):,.0f}",
            f"{side.ratio(first, VALUES['rate']):.2f}",
            f"{cpu:,.1f}" if cpu else "",
            ", ".join(f"{name} {nbytes / 1e6:,.0f}" for name, nbytes in peaks.items()),
        )
    console.print(table)
    for verdict in comparison.verdicts():
        console.print(f"  {verdict}", highlight=False)


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
