"""The benchmark of losses: knowledge of a large vocabulary, read from a file and compared.

A side's time is that of reading, of the loss and of its gradient. The student's own logits are
there: what makes them is the same for all sides. The files are in memory (`/dev/shm`) if that
folder exists.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from benchmarks.actors import Gate
from benchmarks.bench import Bench
from benchmarks.measure import Comparison, Goal, Sample, Side
from benchmarks.scale import Scale

# SmolLM2's vocabulary; rows of one window each, eight to a batch.
VOCABULARY, WINDOW, ROWS = 49_152, 64, 8
_TOKEN_BYTES = 2 * VOCABULARY
DENSE, SAMPLED = "all logits, float16", "25 draws"


def comparisons(bench: Bench, scale: Scale) -> Iterator[Comparison]:
    """The comparison: the KL of dense logits, and the estimate from 25 draws."""
    memory = Path("/dev/shm")
    batches = max(2, min(32, scale.offline_bytes // (_TOKEN_BYTES * WINDOW * ROWS)))
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Comparison(
            title=f"losses: forward KL from a file, {VOCABULARY:,} ids a position",
            sides=[
                Side(name=DENSE, run=partial(_run, bench, folder, batches, False)),
                Side(
                    name=SAMPLED,
                    run=partial(_run, bench, folder, batches, True),
                    goals=(Goal(other=DENSE, at_least=5),),
                ),
            ],
        )


def _run(bench: Bench, folder: str, batches: int, sampled: bool) -> Sample:
    done = bench.one("losses", learn, folder, batches, sampled)
    return Sample(
        seconds=done.ended - done.began,
        # As dense logits, whatever the file holds: what is compared is positions.
        nbytes=batches * ROWS * WINDOW * _TOKEN_BYTES,
        units=batches,
        cpu_s={"process": done.cpu_s},
        peak_rss={"process": done.peak_rss},
    )


def learn(gate: Gate, folder: str, batches: int, sampled: bool) -> None:
    """Write a file, then take the loss of each of its batches and the gradient of the logits."""
    from tutelage import FileSink, FileSource, Sampled, Student, Teacher, losses

    generator = torch.Generator().manual_seed(0)
    # As peaked as a language model's: a few tokens have most of the probability.
    given = [
        4 * torch.randn(ROWS, WINDOW, VOCABULARY, generator=generator).half() for _ in range(2)
    ]
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = f"{place}/knowledge.avro"
        with Teacher(FileSink(path), wire={"logits": Sampled(25)} if sampled else {}) as teacher:
            teacher.serve(lambda index: {"logits": given[index % 2]}, range(batches))
        logits = torch.randn(ROWS, WINDOW, VOCABULARY, generator=generator, requires_grad=True)
        student = Student()
        student.register_teacher(FileSource(path))
        gate.ready()
        with student:
            for batch in student.knowledge(ROWS):
                logits.grad = None
                torch.autograd.backward(losses.forward_kl(logits, batch["logits"]))
