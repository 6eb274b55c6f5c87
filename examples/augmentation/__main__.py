"""A student repeats its teacher's random crops from seeds alone: bytes, and what it is worth.

python -m tutelage.examples.augmentation
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import torch

from tutelage.examples.augmentation.data import load
from tutelage.examples.augmentation.experiment import Experiment, report
from tutelage.examples.augmentation.teacher import trained
from tutelage.examples.toy.flags import exit_with, positive


def main() -> None:
    """Run the experiment with the flags' settings, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tutelage.examples.augmentation",
        description="Distil a network with random crops that the student repeats from seeds.",
    )
    parser.add_argument(
        "--seeds", type=positive, default=5, help="train this many students each (default: 5)"
    )
    parser.add_argument(
        "--passes", type=positive, default=2, help="let the teacher see each image this many times"
    )
    parser.add_argument(
        "--rounds", type=positive, default=5, help="let a student see each view this many times"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="keep the teacher's files in this folder (default: remove them)",
    )
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    torch.set_num_threads(1)
    images, held_out = load()
    with ExitStack() as stack:
        folder = given.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        experiment = Experiment(
            teacher=trained(images),
            images=images,
            held_out=held_out,
            folder=folder,
            seeds=given.seeds,
            passes=given.passes,
            rounds=given.rounds,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
        print(report(experiment, experiment.run()))


if __name__ == "__main__":
    exit_with(main)
