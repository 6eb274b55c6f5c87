"""The command line of the benchmarks: runs them, prints tables, and writes figures and plots.

python -m benchmarks [NAME ...] [--rounds N] [--quick | --tiny] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks.bench import Bench, opened
from benchmarks.measure import Comparison, print_comparison
from benchmarks.plots import plot_ratios
from benchmarks.scale import FULL, QUICK, TINY, Scale

NAMES = ("offline", "online", "growth", "start", "training", "rows", "ranks", "losses", "replicas")
FAILED = 1


def main(
    arguments: Sequence[str] | None = None,
    bench: Callable[[], AbstractContextManager[Bench]] = opened,
) -> int:
    """Run the named benchmarks, or all of them.

    A comparison that fails does not end the others. The failures are listed at the end.

    Args:
        arguments: The command line. If not given, that of this program.
        bench: Opens the processes and the stack that one benchmark runs on.

    Returns:
        The exit code: 1 if anything failed.
    """
    given = _parsed(arguments)
    scale = TINY if given.tiny else QUICK if given.quick else FULL
    given.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    failures: list[str] = []
    for name in given.names or NAMES:
        try:
            with bench() as made:
                failures += _run(name, made, given.rounds, scale, given.out)
        except Exception as error:
            failures.append(_failed(f"{name} (all of it)", error))
    print(f"everything took {_minutes(time.monotonic() - began)}")
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return FAILED if failures else 0


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Tutelage against the disk, the broker and its peers.",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"run these of {', '.join(NAMES)}; without names, all",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=5,
        help="run each side of a comparison this many times (default: 5)",
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument(
        "--quick",
        action="store_true",
        help="move less data in fewer cases: an estimate, not a measurement",
    )
    amount.add_argument(
        "--tiny",
        action="store_true",
        help="run every case with very little data: a test, not a measurement",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("build/benchmarks"),
        help="write the JSON and PNG files to this folder",
    )
    given = parser.parse_args(arguments)
    unknown = set(given.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if given.rounds < 1:
        parser.error(f"--rounds must be 1 or more, not {given.rounds}")
    return given


def comparisons_of(name: str, bench: Bench, scale: Scale) -> Iterator[Comparison]:
    """The comparisons of one benchmark. Each must be measured before the next is requested."""
    found: Iterator[Comparison] = importlib.import_module(f"benchmarks.{name}").comparisons(
        bench, scale
    )
    return found


def _run(name: str, bench: Bench, rounds: int, scale: Scale, out: Path) -> list[str]:
    """Measure the comparisons of one benchmark. Returns a line for each that failed."""
    began = time.monotonic()
    failures: list[str] = []
    kept: list[Comparison] = []
    figures, plot = out / f"{name}.json", out / f"{name}.png"
    for old in (figures, plot):
        old.unlink(missing_ok=True)
    for comparison in comparisons_of(name, bench, scale):
        try:
            print_comparison(comparison.measured(rounds))
            text = json.dumps(
                [one.as_json() for one in (*kept, comparison)], indent=1, allow_nan=False
            )
            # After each one, so that a later failure loses no figures.
            figures.write_text(text, encoding="utf-8")
            kept.append(comparison)
        except Exception as error:
            failures.append(_failed(comparison.title, error))
    plot_ratios(name, kept, plot)
    print(f"{name} took {_minutes(time.monotonic() - began)}; its figures are in {figures}")
    return failures


def _failed(what: str, error: Exception) -> str:
    traceback.print_exception(error)
    return f"{what}: {type(error).__name__}: {error}"


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


if __name__ == "__main__":
    sys.exit(main())
