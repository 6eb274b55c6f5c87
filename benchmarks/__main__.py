"""python -m benchmarks [NAME ...] [--rounds N] [--quick] [--out FOLDER]"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Iterable
from pathlib import Path

from benchmarks.measure import Comparison, shown

NAMES = ("offline", "online", "growth", "start", "training")


def main() -> None:
    """Run the benchmarks named, or all; print tables, keep figures and plots."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Tutelage against the disk, the broker and its peers."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all unless given")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="less data, fewer cases: a look, not a measurement")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"), help="folder for JSON and PNG")
    given = parser.parse_args()
    unknown = set(given.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.names or NAMES:
        found: Iterable[Comparison] = importlib.import_module(f"benchmarks.{name}").run(given.rounds, quick=given.quick)
        kept: list[Comparison] = []
        for comparison in found:
            shown(comparison)
            kept.append(comparison)
            # After each, so that what was measured is not lost with what fails later.
            (given.out / f"{name}.json").write_text(json.dumps([one.as_json() for one in kept], indent=1), encoding="utf-8")
        importlib.import_module("benchmarks.plots").drawn(name, kept, given.out / f"{name}.png")
        print(f"kept in {given.out}/{name}.json and {name}.png")


if __name__ == "__main__":
    main()
