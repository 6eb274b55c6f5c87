"""The toy's lessons, for the command line:

    tutelage teach tutelage.examples.toy.lessons:teacher1 --out teacher1.avro

`steady1` and `steady2` are the same teachers at the pace of real ones: they take ten minutes for a
million rows, so that there is something to watch. `train` is a student for them. `asked` answers the
queries of asking.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from tutelage import Lesson
from tutelage.examples.toy.reader import inputs_of
from tutelage.examples.toy.teachers import Teacher1, Teacher2

MAX_N = 1000
ANSWER_SECONDS = 0.05
STEADY_ROWS, STEADY_BATCH, STEADY_SECONDS = 1_000_000, 100, 600.0


def teacher1() -> Lesson:
    """x -> 2x-1, for the numbers 0 to 999."""
    return Lesson(
        model=Teacher1(),
        inputs=inputs_of("batch_generator", max_n=MAX_N, batch_size=32),
        name="teacher1",
        inputs_fingerprint=f"numbers to {MAX_N}",
    )


def teacher2() -> Lesson:
    """x -> 2x+1, for the numbers 0 to 999."""
    return Lesson(
        model=Teacher2(),
        inputs=inputs_of("batch_generator", max_n=MAX_N, batch_size=25),
        name="teacher2",
        inputs_fingerprint=f"numbers to {MAX_N}",
    )


def steady1() -> Lesson:
    """x -> 2x-1, for a million numbers, in ten minutes."""
    return replace(teacher1(), inputs=_steady, inputs_fingerprint=f"numbers to {STEADY_ROWS}")


def steady2() -> Lesson:
    """x -> 2x+1, for a million numbers, in ten minutes."""
    return replace(teacher2(), inputs=_steady, inputs_fingerprint=f"numbers to {STEADY_ROWS}")


def asked() -> Lesson:
    """x -> 2x-1, for the numbers that a student asks for; a call takes 50 ms, as a model's would."""
    teacher = Teacher1()

    def answer(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        time.sleep(ANSWER_SECONDS)
        return {"result": teacher(batch["x"])["result"]}

    return Lesson(model=answer, name="teacher3")


def train(batches: Iterator[dict[str, torch.Tensor]]) -> None:
    """Fit result = w x + b to the merged knowledge by gradient descent."""
    line = torch.nn.Linear(1, 1)
    optimizer = torch.optim.Adam(line.parameters(), lr=0.05)
    for batch in batches:
        x, result = (batch[key].float() / STEADY_ROWS for key in ("x", "result"))
        optimizer.zero_grad()
        torch.autograd.backward(torch.nn.functional.mse_loss(line(x), result))
        optimizer.step()


def _steady() -> Iterator[torch.Tensor]:
    began, batches = time.monotonic(), STEADY_ROWS // STEADY_BATCH
    for index in range(batches):
        # By the clock, so that a late batch does not delay the later ones.
        time.sleep(max(0.0, began + index * STEADY_SECONDS / batches - time.monotonic()))
        yield torch.arange(index * STEADY_BATCH, (index + 1) * STEADY_BATCH).reshape(-1, 1)
