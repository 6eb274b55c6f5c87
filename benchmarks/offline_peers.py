"""The sides of the offline benchmark that are other formats: what each writes and reads.

Writers sync the file at the end, as a FileSink does. A reader that returns arrays of its own copies
them to one reused set of tensors, as a training loop would.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.actors import Gate
from benchmarks.buffers import bytes_of, numpy_batches, numpy_target, safe_name, target_of
from benchmarks.disk import sync_file, sync_path
from benchmarks.knowledge import Shape


def write_npy(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """One .npy file per key, written through a memory map."""
    given = numpy_batches(shape)
    gate.ready()
    for key in shape.keys:
        first = given[0][key].numpy()
        shape_ = (count * shape.rows, *first.shape[1:])
        mapped = np.lib.format.open_memmap(
            f"{path}.{safe_name(key)}.npy", "w+", first.dtype, shape_
        )
        for index in range(count):
            mapped[index * shape.rows : (index + 1) * shape.rows] = given[index % len(given)][
                key
            ].numpy()
        mapped.flush()


def read_npy(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """The memory maps, copied batch by batch."""
    target = numpy_target(shape)
    gate.ready()
    mapped = {key: np.load(f"{path}.{safe_name(key)}.npy", mmap_mode="r") for key in shape.keys}
    for index in range(count):
        for key, tensor in target.items():
            tensor.numpy()[:] = mapped[key][index * shape.rows : (index + 1) * shape.rows]


def write_safetensors(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """Shards of about 16 MB: a file is written at once, and must not hold a tensor twice."""
    from safetensors.torch import save_file

    given = shape.batches()
    gate.ready()
    for shard, indices in _shards(shape, count):
        save_file(
            {
                f"{index}.{key}": value
                for index in indices
                for key, value in given[index % len(given)].items()
            },
            f"{path}.{shard}",
        )
        sync_path(f"{path}.{shard}")


def read_safetensors(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """The shards, tensor by tensor."""
    from safetensors import safe_open

    target = target_of(shape)
    gate.ready()
    for shard, indices in _shards(shape, count):
        with safe_open(f"{path}.{shard}", framework="pt") as file:
            for index in indices:
                for key, tensor in target.items():
                    tensor.copy_(file.get_tensor(f"{index}.{key}"))


def write_arrow(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """Arrow IPC: a record batch of one row of binary values per batch."""
    import pyarrow as pa

    schema = pa.schema([(key, pa.large_binary()) for key in shape.keys])
    given = _record_batches(shape, schema)
    gate.ready()
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for index in range(count):
            writer.write_batch(given[index % len(given)])
    sync_path(path)


def read_arrow(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """Record batches, read into memory that Arrow owns."""
    import pyarrow as pa

    target = bytes_of(target_of(shape))
    gate.ready()
    with pa.OSFile(path, "rb") as source:
        reader = pa.ipc.open_file(source)
        for index in range(count):
            batch = reader.get_batch(index)
            for key, array in target.items():
                array[:] = np.frombuffer(batch.column(key)[0].as_buffer(), np.uint8)


def write_parquet(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """Parquet, uncompressed: a row group per batch."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(key, pa.large_binary()) for key in shape.keys])
    given = _record_batches(shape, schema)
    gate.ready()
    with pq.ParquetWriter(
        path, schema, compression="none", use_dictionary=False, write_statistics=False
    ) as writer:
        for index in range(count):
            writer.write_batch(given[index % len(given)])
    sync_path(path)


def read_parquet(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """Row group by row group."""
    import pyarrow.parquet as pq

    target = bytes_of(target_of(shape))
    gate.ready()
    file = pq.ParquetFile(path)
    for index in range(count):
        table = file.read_row_group(index)
        for key, array in target.items():
            array[:] = np.frombuffer(table.column(key)[0].as_buffer(), np.uint8)


def write_hdf5(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """HDF5: a dataset per key, a chunk per batch."""
    import h5py

    given = numpy_batches(shape)
    gate.ready()
    with h5py.File(path, "w") as file:
        for key in shape.keys:
            first = given[0][key].numpy()
            data = file.create_dataset(
                safe_name(key),
                (count * shape.rows, *first.shape[1:]),
                first.dtype,
                chunks=first.shape,
            )
            for index in range(count):
                data[index * shape.rows : (index + 1) * shape.rows] = given[index % len(given)][
                    key
                ].numpy()
    sync_path(path)


def read_hdf5(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """Directly into the reused tensors."""
    import h5py

    target = numpy_target(shape)
    gate.ready()
    with h5py.File(path, "r") as file:
        for index in range(count):
            for key, tensor in target.items():
                file[safe_name(key)].read_direct(
                    tensor.numpy(), np.s_[index * shape.rows : (index + 1) * shape.rows]
                )


def write_webdataset(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """WebDataset: a tar member per key of a batch."""
    import webdataset as wds

    given = [bytes_of(batch) for batch in shape.batches()]
    gate.ready()
    with wds.TarWriter(path) as writer:
        for index in range(count):
            members = {
                f"{safe_name(key)}.bin": value.tobytes()
                for key, value in given[index % len(given)].items()
            }
            writer.write({"__key__": f"{index:08d}", **members})
    sync_path(path)


def read_webdataset(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """The members, in order."""
    import webdataset as wds

    target = bytes_of(target_of(shape))
    gate.ready()
    for sample in wds.WebDataset(path, shardshuffle=False):
        for key, array in target.items():
            array[:] = np.frombuffer(sample[f"{safe_name(key)}.bin"], np.uint8)


def write_fastavro(gate: Gate, path: str, shape: Shape, count: int, codec: str) -> None:
    """fastavro's own writer: a bytes field per key."""
    import fastavro

    schema: Any = {
        "type": "record",
        "name": "Batch",
        "fields": [{"name": safe_name(key), "type": "bytes"} for key in shape.keys],
    }
    given = [
        {safe_name(key): value.tobytes() for key, value in bytes_of(batch).items()}
        for batch in shape.batches()
    ]
    gate.ready()
    with Path(path).open("wb") as file:
        fastavro.writer(
            file, schema, (given[index % len(given)] for index in range(count)), codec=codec
        )
        sync_file(file)


def read_fastavro(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """fastavro's own reader."""
    import fastavro

    target = bytes_of(target_of(shape))
    gate.ready()
    with Path(path).open("rb") as file:
        record: Any
        for record in fastavro.reader(file):
            for key, array in target.items():
                array[:] = np.frombuffer(record[safe_name(key)], np.uint8)


def _shards(shape: Shape, count: int) -> Iterator[tuple[int, range]]:
    """Each shard and its batches: as many as are different."""
    for shard, first in enumerate(range(0, count, shape.distinct)):
        yield shard, range(first, min(count, first + shape.distinct))


def _record_batches(shape: Shape, schema: Any) -> list[Any]:
    """Each batch as an Arrow record batch of one row."""
    import pyarrow as pa

    return [
        pa.record_batch(
            [pa.array([value.tobytes()], pa.large_binary()) for value in bytes_of(batch).values()],
            schema,
        )
        for batch in shape.batches()
    ]
