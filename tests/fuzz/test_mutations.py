"""Valid bytes, mutated, against everything that reads bytes: the result is right or a TutelageError, never another exception or a hang.

`TUTELAGE_FUZZ_SECONDS=600 pytest tests/fuzz` goes on mutating for so long, from a seed that it prints.
"""

from __future__ import annotations

import collections
import os
import random
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.fuzz_targets import TARGETS, judge
from support.mutations import mutated

CORPUS = Path(__file__).resolve().parent / "corpus"
SECONDS = float(os.environ.get("TUTELAGE_FUZZ_SECONDS", "0"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the mutated files lie."""
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("name", TARGETS)
@given(seed=st.integers(0, 2**32 - 1), base=st.integers(0, 3), times=st.integers(1, 6))
@example(seed=0, base=0, times=0)
@settings(max_examples=1000, deadline=None)
def test_mutated_bytes_are_read_right_or_refused(
    name: str, folder: Path, seed: int, base: int, times: int
) -> None:
    target = TARGETS[name]
    data = mutated(target.seeds[base % len(target.seeds)], target.seeds, seed, times)
    found = judge(target, data, folder)
    assert times or found == "read", f"{name} refuses its own seed: {found}"


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_inputs_that_were_interesting_once_are_judged_as_then(path: Path, folder: Path) -> None:
    """A file's name is TARGET.OUTCOME.NUMBER."""
    name, outcome, _ = path.name.split(".")
    assert judge(TARGETS[name], path.read_bytes(), folder) == outcome


@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.skipif(not SECONDS, reason="goes on for TUTELAGE_FUZZ_SECONDS")
def test_bytes_are_mutated_for_as_long_as_was_asked(folder: Path) -> None:
    began, first = time.monotonic(), random.randrange(2**32)
    print(f"seed {first}")
    chooser = random.Random(first)
    counts: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in TARGETS}
    while time.monotonic() < began + SECONDS:
        for name, target in TARGETS.items():
            for _ in range(50):
                data = mutated(
                    chooser.choice(target.seeds),
                    target.seeds,
                    chooser.randrange(2**32),
                    chooser.randint(1, 6),
                )
                try:
                    counts[name][judge(target, data, folder)] += 1
                except BaseException as error:
                    raise AssertionError(f"{name}, seed {first}: {error!r} for {data!r}") from error
    for name, counter in counts.items():
        print(f"{name}: {counter.total()} inputs, {dict(counter)}")
