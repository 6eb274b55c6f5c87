"""The offline benchmark: files, against raw system calls and against other formats.

The files are in memory (`/dev/shm`) if that folder exists, so that the disk's variance does not
count. The last comparison reads from disk, cold.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import offline_peers as peers
from benchmarks import offline_sides as sides
from benchmarks.actors import Done
from benchmarks.bench import Bench
from benchmarks.disk import drop_from_cache
from benchmarks.knowledge import KB256, MB8, Shape
from benchmarks.measure import Comparison, Goal, Sample, Side
from benchmarks.scale import Scale

RAW = "raw system calls"
PEERS = ("npy", "safetensors", "arrow", "hdf5", "parquet", "webdataset")
_BLOCK_BYTES = 4 << 20


class Files:
    """A folder, and the process that writes and reads there. Each side writes its own files."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self._bench = bench
        self.folder = folder

    def sample(self, shape: Shape, count: int, job: Any, *arguments: Any) -> Sample:
        """Run a job, and return its sample."""
        return _sample(self._bench.one("files", job, *arguments), shape, count)

    def writes(self, shape: Shape, count: int, job: Any, *arguments: Any) -> Callable[[], Sample]:
        """The run of a side that writes to an empty folder."""

        def run() -> Sample:
            self.clear()
            return self.sample(shape, count, job, str(self.folder / "w"), shape, count, *arguments)

        return run

    def reads(
        self, shape: Shape, count: int, write: Any, read: Any, *arguments: Any, cold: bool = False
    ) -> Callable[[], Sample]:
        """The run of a side that reads what its writer has just written."""

        def run() -> Sample:
            self.clear()
            codec = ("null",) if write in _TAKES_CODEC else ()
            self._bench.one("files", write, str(self.folder / "r"), shape, count, *codec)
            if cold:
                for path in self.folder.iterdir():
                    drop_from_cache(str(path))
            return self.sample(shape, count, read, str(self.folder / "r"), shape, count, *arguments)

        return run

    def clear(self) -> None:
        """Empty the folder."""
        for path in self.folder.iterdir():
            path.unlink()


_TAKES_CODEC = (sides.write_ours, peers.write_fastavro)


def _sample(done: Done, shape: Shape, count: int) -> Sample:
    return Sample(
        seconds=done.ended - done.began,
        nbytes=count * shape.nbytes,
        units=count,
        cpu_s={"process": done.cpu_s},
        peak_rss={"process": done.peak_rss},
    )


def comparisons(bench: Bench, scale: Scale) -> Iterator[Comparison]:
    """The comparisons: writing, reading, codecs, cold reading."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        files = Files(bench, Path(folder))
        for shape in scale.shapes((KB256, MB8) if scale.all_cases else (KB256,)):
            yield _write(files, shape, scale.offline(shape))
            yield _read(files, shape, scale.offline(shape))
        (shape,) = scale.shapes([KB256])
        # At least one block.
        yield from _codecs(
            files, shape, max(scale.offline(shape) // 2, _BLOCK_BYTES // shape.nbytes)
        )
    with tempfile.TemporaryDirectory() as folder:
        yield _cold(Files(bench, Path(folder)), shape, scale.offline(shape))


def _write(files: Files, shape: Shape, count: int) -> Comparison:
    found = [
        Side(name=RAW, run=files.writes(shape, count, sides.write_raw)),
        Side(
            name="tutelage, checksummed",
            run=files.writes(shape, count, sides.write_ours, "null"),
            goals=(Goal(other=RAW, at_least=0.95),),
        ),
        Side(name="fastavro", run=files.writes(shape, count, peers.write_fastavro, "null")),
    ]
    found += [
        Side(name=peer, run=files.writes(shape, count, getattr(peers, f"write_{peer}")))
        for peer in PEERS
    ]
    return Comparison(title=f"offline: write, batches of {shape.name}, synced", sides=found)


def _read(files: Files, shape: Shape, count: int) -> Comparison:
    ours = sides.write_ours
    owned = ("safetensors", "arrow", "hdf5", "parquet", "webdataset")
    goals = (Goal(other=RAW, at_least=0.7), *(Goal(other=peer, at_least=2.3) for peer in owned))
    found = [
        Side(name=RAW, run=files.reads(shape, count, sides.write_raw, sides.read_raw)),
        Side(
            name="tutelage, verified",
            run=files.reads(shape, count, ours, sides.read_ours, True),
            goals=goals,
        ),
        Side(
            name="tutelage, not verified",
            run=files.reads(shape, count, ours, sides.read_ours, False),
            goals=(Goal(other=RAW, at_least=0.9),),
        ),
        Side(
            name="tutelage, verified and copied",
            run=files.reads(shape, count, ours, sides.read_ours_copied),
        ),
        Side(
            name="fastavro",
            run=files.reads(shape, count, peers.write_fastavro, peers.read_fastavro),
        ),
    ]
    found += [
        Side(
            name=peer,
            run=files.reads(
                shape, count, getattr(peers, f"write_{peer}"), getattr(peers, f"read_{peer}")
            ),
        )
        for peer in PEERS
    ]
    return Comparison(title=f"offline: read to torch, warm, batches of {shape.name}", sides=found)


def _codecs(files: Files, shape: Shape, count: int) -> Iterator[Comparison]:
    """Compressed files, against the zstandard codec alone on one thread."""
    alone = "zstandard alone, one thread"

    def ours(threads: int, codec: str = "zstandard") -> Callable[[], Sample]:
        return files.writes(shape, count, write_threads, codec, threads)

    yield Comparison(
        title=f"offline: write zstandard and deflate, batches of {shape.name}",
        sides=[
            Side(
                name=alone,
                run=lambda: files.sample(
                    shape, count, sides.compress_alone, shape, count, _BLOCK_BYTES
                ),
            ),
            Side(name="tutelage, 1 thread", run=ours(1), goals=(Goal(other=alone, at_least=0.9),)),
            Side(name="tutelage, 2 threads", run=ours(2)),
            Side(name="tutelage, deflate, 2 threads", run=ours(2, "deflate")),
            Side(
                name="fastavro, zstandard",
                run=files.writes(shape, count, peers.write_fastavro, "zstandard"),
            ),
        ],
    )
    yield Comparison(
        title=f"offline: read zstandard, batches of {shape.name}",
        sides=[
            Side(
                name=alone,
                run=lambda: files.sample(
                    shape, count, sides.decompress_alone, shape, count, _BLOCK_BYTES
                ),
            ),
            Side(
                name="tutelage, as many threads as processors",
                run=files.reads(shape, count, write_zstandard, sides.read_ours, True),
                goals=(Goal(other=alone, at_least=0.9),),
            ),
        ],
    )


def write_threads(gate: Any, path: str, shape: Shape, count: int, codec: str, threads: int) -> None:
    """As `write_ours`, on this many encode threads."""
    os.environ["NUM_POSTPROCESS_THREADS"] = str(threads)
    try:
        sides.write_ours(gate, path, shape, count, codec)
    finally:
        del os.environ["NUM_POSTPROCESS_THREADS"]


def write_zstandard(gate: Any, path: str, shape: Shape, count: int) -> None:
    """As `write_ours`, compressed with zstandard."""
    sides.write_ours(gate, path, shape, count, "zstandard")


def _cold(files: Files, shape: Shape, count: int) -> Comparison:
    return Comparison(
        title=f"offline: read to torch from disk, cold, batches of {shape.name}",
        sides=[
            Side(
                name=RAW, run=files.reads(shape, count, sides.write_raw, sides.read_raw, cold=True)
            ),
            Side(
                name="tutelage, verified",
                run=files.reads(shape, count, sides.write_ours, sides.read_ours, True, cold=True),
            ),
            Side(
                name="safetensors",
                run=files.reads(
                    shape, count, peers.write_safetensors, peers.read_safetensors, cold=True
                ),
            ),
        ],
    )
