"""On-policy against off-policy distillation of SmolLM2-135M, with replicas that start and die.

    python -m tutelage.examples.on_policy

It needs Java and Maven for the local stack, or the addresses of a running one, and a package index
once, for the teacher's weights. A run that was stopped goes on with the students that are missing.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tutelage import ConfigurationError
from tutelage.examples.language_model.memory import keep_freed_memory
from tutelage.examples.on_policy.sizes import SIZES, Size
from tutelage.examples.toy.flags import exit_with, positive


def main() -> None:
    """Run the experiment with the flags' settings, and print the tables."""
    given = _parser().parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    keep_freed_memory()
    with _stack(given.bootstrap_server, given.registry) as kafka:
        # Not at the top: `transformers` takes seconds to import, which --help need not wait for.
        import torch

        from tutelage.examples.language_model import smollm2
        from tutelage.examples.on_policy import tiny
        from tutelage.examples.on_policy.experiment import Experiment
        from tutelage.examples.on_policy.replicas import ELASTIC, STEADY

        # Sums of several threads may differ in their last bit, and replicas need the other cores.
        torch.set_num_threads(1)
        found = Experiment(
            size=_size(given),
            seeds=given.seeds,
            folder=given.out.absolute(),
            load=tiny.load if given.size == "quick" else smollm2.load,
            kafka=kafka,
            plan=STEADY if given.steady else ELASTIC,
            only=tuple(given.only),
            device="cuda" if given.size == "gpu" else "cpu",
            say=_say,
        ).run()
    print(found)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tutelage.examples.on_policy",
        description="Distil SmolLM2-135M on texts that the student writes, and on a corpus, with "
        "equal tokens. Replicas of the teacher start and are killed during the run.",
    )
    parser.add_argument(
        "--size",
        choices=sorted(SIZES),
        default="cpu",
        help="how large text and student are, and where they run; quick has a tiny teacher with "
        "random weights (default: cpu)",
    )
    parser.add_argument(
        "--seeds", type=positive, default=5, help="train this many students each (default: 5)"
    )
    parser.add_argument(
        "--steps", type=positive, help="train each student this many steps (default: by --size)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("on-policy-results"),
        metavar="FOLDER",
        help="write models and results to this folder (default: on-policy-results)",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="VARIANT",
        help="run this variant, by its name in the table; can be repeated (default: all)",
    )
    parser.add_argument(
        "--steady",
        action="store_true",
        help="keep one replica throughout, instead of starting and killing some",
    )
    parser.add_argument(
        "--bootstrap-server",
        metavar="HOST:PORT",
        help="use this broker; with --registry (default: start a local stack)",
    )
    parser.add_argument("--registry", metavar="URL", help="use this schema registry")
    return parser


def _size(given: argparse.Namespace) -> Size:
    size = SIZES[given.size]
    return replace(size, text=replace(size.text, steps=given.steps)) if given.steps else size


@contextlib.contextmanager
def _stack(bootstrap: str | None, registry: str | None) -> Iterator[dict[str, Any]]:
    """The given addresses, or those of a local stack that runs while the block does."""
    if (bootstrap is None) != (registry is None):
        raise ConfigurationError("give --bootstrap-server and --registry together, or neither")
    if bootstrap is not None:
        yield {"bootstrap_servers": bootstrap, "registry": registry}
        return
    from tutelage.deploy.local import Stack

    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "stack")
        _say("starting a broker and a registry ...")
        addresses = stack.up()
        try:
            yield {
                "bootstrap_servers": addresses.bootstrap_servers,
                "registry": addresses.registry,
            }
        finally:
            stack.down()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    exit_with(main)
