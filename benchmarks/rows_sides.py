"""The sides of the benchmark of random access: each writes its file, then reads it shuffled.

Each gives the same batches: a dict of tensors `[rows, ...]` of their own memory.
"""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from benchmarks.actors import Gate
from benchmarks.knowledge import Shape
from benchmarks.offline_sides import write_ours


class _Written:
    """A gate that does not wait, for a writer that is not measured."""

    def ready(self) -> None:
        """Go on."""


def ours(gate: Gate, folder: str, shape: Shape, count: int, verify: bool) -> None:
    """A `KnowledgeFile`."""
    from tutelage import KnowledgeFile

    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = f"{place}/a.avro"
        write_ours(_Written(), path, shape, count, "null")  # type: ignore[arg-type]
        order = _shuffled(shape, count)
        gate.ready()
        with KnowledgeFile(path, verify=verify) as file:
            _read(DataLoader(file, batch_size=shape.rows, sampler=order), shape, count)


def arrow_rows(gate: Gate, folder: str, shape: Shape, count: int) -> None:
    """A memory-mapped Arrow file, row by row: a `Subset` in torch's order of rows."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        _write_arrow(f"{place}/a.arrow", shape, count)
        order = _shuffled(shape, count)
        gate.ready()
        rows = Subset(_ArrowRows(f"{place}/a.arrow", shape), order)
        _read(DataLoader(rows, batch_size=shape.rows), shape, count)


def datasets_rows(gate: Gate, folder: str, shape: Shape, count: int) -> None:
    """The same file as a data set of Hugging Face's `datasets`, which must be installed."""
    from datasets import Dataset as ArrowDataset

    with tempfile.TemporaryDirectory(dir=folder) as place:
        _write_arrow(f"{place}/a.arrow", shape, count)
        order = _shuffled(shape, count)
        gate.ready()
        rows = ArrowDataset(_table(f"{place}/a.arrow")).with_format("torch")
        _read(DataLoader(Subset(rows, order), batch_size=shape.rows), shape, count)


def mds_rows(gate: Gate, folder: str, shape: Shape, count: int) -> None:
    """MosaicML's MDS, row by row. Needs `mosaicml-streaming`."""
    from streaming import MDSWriter, StreamingDataset

    with tempfile.TemporaryDirectory(dir=folder) as place:
        columns = {
            key: f"ndarray:{dtype}:{','.join(map(str, row))}" if row else dtype
            for key, (row, dtype) in shape.keys.items()
        }
        given = shape.batches()
        with MDSWriter(out=f"{place}/mds", columns=columns, hashes=["xxh3_64"]) as writer:
            for index in range(count):
                arrays = {key: each.numpy() for key, each in given[index % len(given)].items()}
                for row in range(shape.rows):
                    writer.write({key: array[row] for key, array in arrays.items()})
        order = _shuffled(shape, count)
        gate.ready()
        rows = Subset(
            _MdsRows(StreamingDataset(local=f"{place}/mds", batch_size=shape.rows)), order
        )
        _read(DataLoader(rows, batch_size=shape.rows), shape, count)


class _MdsRows(Dataset[dict[str, torch.Tensor]]):
    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {key: torch.from_numpy(np.array(value)) for key, value in self._rows[index].items()}


class _ArrowRows(Dataset[dict[str, torch.Tensor]]):
    """The rows of a memory-mapped Arrow file, as tensors of their own memory."""

    def __init__(self, path: str, shape: Shape) -> None:
        self._table = _table(path)
        self._shape = shape

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        found, table = {}, self._table.slice(index, 1)
        for key, (row, _) in self._shape.keys.items():
            values = table.column(key).chunk(0)
            flat = (values.flatten() if row else values).to_numpy()
            found[key] = torch.from_numpy(flat.reshape(row).copy())
        return found


def _table(path: str) -> Any:
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(path)).read_all()


def _write_arrow(path: str, shape: Shape, count: int) -> None:
    """Record batches of about 4 MB, as Tutelage's records."""
    import pyarrow as pa

    given, together = shape.batches(), max(1, (4 << 20) // shape.nbytes)
    with pa.OSFile(path, "wb") as sink:
        writer: Any = None
        for first in range(0, count, together):
            batches = [given[at % len(given)] for at in range(first, min(count, first + together))]
            columns = {}
            for key, (row, _) in shape.keys.items():
                values = pa.array(torch.cat([each[key] for each in batches]).numpy().reshape(-1))
                size = int(np.prod(row))
                columns[key] = pa.FixedSizeListArray.from_arrays(values, size) if row else values
            made = pa.RecordBatch.from_pydict(columns)
            writer = writer or pa.ipc.new_file(sink, made.schema)
            writer.write_batch(made)
        writer.close()


def _shuffled(shape: Shape, count: int) -> list[int]:
    generator = torch.Generator().manual_seed(0)
    order: list[int] = torch.randperm(shape.rows * count, generator=generator).tolist()
    return order


def _read(loader: DataLoader[Any], shape: Shape, count: int) -> None:
    """Read all batches, and check that they have the shape that all sides give."""
    rows = 0
    for batch in loader:
        for key, (row, _) in shape.keys.items():
            assert batch[key].shape == (shape.rows, *row), (key, batch[key].shape)
        rows += shape.rows
    assert rows == count * shape.rows
