"""python -m benchmarks [offline] [online] [--rounds N] [--out FILE]"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from benchmarks.measure import Row, kept, shown

NAMES = ("offline", "online")


def main() -> None:
    """Run the benchmarks named, or all; print tables and keep the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Tutelage against the disk and the broker.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all unless given")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks.json"))
    given = parser.parse_args()
    unknown = set(given.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    results: dict[str, list[Row]] = {}
    for name in given.names or NAMES:
        found = importlib.import_module(f"benchmarks.{name}").run(given.rounds)
        for title, rows in found.items():
            shown(f"{title}: batches of 256 KB, tensor bytes only", rows)
        results |= found
    given.out.parent.mkdir(parents=True, exist_ok=True)
    kept(results, given.out)
    print(f"kept in {given.out}")


if __name__ == "__main__":
    main()
