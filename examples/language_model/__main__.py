"""SmolLM2-135M teaches a small student on Python's documentation, in every encoding.

    python -m tutelage.examples.language_model

It needs a package index once, for the teacher's weights. A run that was stopped goes on where it
was: finished files and finished students are kept in the folder of the results.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path

from tutelage.examples.language_model.memory import keep_freed_memory
from tutelage.examples.language_model.sizes import SIZES
from tutelage.examples.toy.flags import exit_with, positive


def main() -> None:
    """Run the experiment with the flags' settings, and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m tutelage.examples.language_model",
        description="Distil SmolLM2-135M into a small student, in every encoding of its knowledge.",
    )
    parser.add_argument(
        "--size",
        choices=sorted(SIZES),
        default="cpu",
        help="how large text and student are, and where they run (default: cpu)",
    )
    parser.add_argument(
        "--seeds", type=positive, default=5, help="train this many students each (default: 5)"
    )
    parser.add_argument(
        "--steps", type=positive, help="train each student this many steps (default: by --size)"
    )
    parser.add_argument(
        "--batch-rows", type=positive, help="windows of text in a step (default: by --size)"
    )
    parser.add_argument(
        "--windows", type=positive, help="windows of text to learn from (default: by --size)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("language-model-results"),
        metavar="FOLDER",
        help="write knowledge and results to this folder (default: language-model-results)",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="VARIANT",
        help='run this variant, such as "systematic 25"; can be repeated (default: all)',
    )
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    keep_freed_memory()
    # Not at the top: `transformers` takes seconds to import, which --help need not wait for.
    from tutelage.examples.language_model.experiment import Experiment
    from tutelage.examples.language_model.smollm2 import load

    size = SIZES[given.size]
    changes = {
        "steps": given.steps,
        "batch_rows": given.batch_rows,
        "train_windows": given.windows,
    }
    size = replace(size, **{name: value for name, value in changes.items() if value is not None})
    found = Experiment(
        size=size,
        seeds=given.seeds,
        folder=given.out,
        load=load,
        only=tuple(given.only),
        device="cuda" if given.size == "gpu" else "cpu",
        say=lambda line: print(line, file=sys.stderr, flush=True),
    ).run()
    print(found)


if __name__ == "__main__":
    exit_with(main)
