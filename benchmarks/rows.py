"""The benchmark of random access: each row of a file once, shuffled, through torch's DataLoader.

The files are in memory (`/dev/shm`) if that folder exists. Opening them is measured too.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import rows_sides as sides
from benchmarks.bench import Bench
from benchmarks.knowledge import Shape, dense
from benchmarks.measure import Comparison, Goal, Sample, Side
from benchmarks.scale import Scale

ARROW = "arrow, Subset"
# A batch of the DataLoader is a batch of these.
_SHAPES = (dense("32 rows of 1 KB", 32, 256), dense("32 rows of 32 KB", 32, 8192))
_MOST_BYTES = 128_000_000


def comparisons(bench: Bench, scale: Scale) -> Iterator[Comparison]:
    """The comparisons: short rows and long ones."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        for shape in scale.shapes(_SHAPES):
            count = max(2, min(scale.offline_bytes, _MOST_BYTES) // shape.nbytes)

            def reads(
                job: Any, *arguments: Any, shape: Shape = shape, count: int = count
            ) -> Callable[[], Sample]:
                return lambda: _sample(bench, job, folder, shape, count, *arguments)

            goals = (Goal(other=ARROW, at_least=5),)
            found = [
                Side(name=ARROW, run=reads(sides.arrow_rows)),
                Side(name="tutelage, verified", run=reads(sides.ours, True), goals=goals),
                Side(name="tutelage, not verified", run=reads(sides.ours, False), goals=goals),
            ]
            # `make install` brings the first, with TRL.
            others = (("datasets", sides.datasets_rows), ("streaming", sides.mds_rows))
            for module, job in others:
                if importlib.util.find_spec(module) is not None:
                    found.append(Side(name=f"{module}, Subset", run=reads(job)))
            yield Comparison(title=f"rows: shuffled, batches of {shape.name}", sides=found)


def _sample(
    bench: Bench, job: Any, folder: str, shape: Shape, count: int, *arguments: Any
) -> Sample:
    done = bench.one("rows", job, folder, shape, count, *arguments)
    return Sample(
        seconds=done.ended - done.began,
        nbytes=count * shape.nbytes,
        units=count,
        cpu_s={"process": done.cpu_s},
        peak_rss={"process": done.peak_rss},
    )
