"""What each side of the offline benchmark does: batches to files, files to one reused set of torch tensors.

Writers end with the file synced, as ours does. Readers that give arrays of their own copy them to the reused tensors: in training, that is
where they would go.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.actors import Gate
from benchmarks.knowledge import Shape

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def write_ours(gate: Gate, path: str, shape: Shape, count: int, codec: str) -> None:
    """A Teacher with a FileSink."""
    from tutelage import FileSink, Teacher
    from tutelage.schemas.container_format import check_codec

    given = shape.batches()
    gate.ready()
    with Teacher(FileSink(path, codec=check_codec(codec), overwrite=True)) as teacher:
        teacher.serve(lambda index: given[index % len(given)], range(count))


def read_ours(gate: Gate, path: str, shape: Shape, count: int, verify: bool) -> None:
    """A Student of a FileSource: batches are its own memory, nothing is copied."""
    from tutelage import FileSource, Student

    key = next(iter(shape.keys))
    gate.ready()
    student = Student()
    student.register_teacher(FileSource(path, verify=verify))
    with student:
        rows = sum(batch[key].shape[0] for batch in student.knowledge(shape.rows))
    assert rows == count * shape.rows


def read_ours_copied(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """The same, every batch copied to the reused tensors, as the peers' are."""
    from tutelage import FileSource, Student

    target = _target(shape)
    gate.ready()
    student = Student()
    student.register_teacher(FileSource(path))
    with student:
        for batch in student.knowledge(shape.rows):
            for key, tensor in target.items():
                tensor.copy_(batch[key])


def write_raw(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """One writev a batch."""
    given: list[Any] = [list(_bytes(batch).values()) for batch in shape.batches()]
    gate.ready()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for index in range(count):
        os.writev(descriptor, given[index % len(given)])
    os.fsync(descriptor)
    os.close(descriptor)


def read_raw(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """One readv a batch, into the reused tensors."""
    target: list[Any] = list(_bytes(_target(shape)).values())
    gate.ready()
    descriptor, nbytes = os.open(path, os.O_RDONLY), shape.nbytes
    for index in range(count):
        os.preadv(descriptor, target, index * nbytes)
    os.close(descriptor)


def write_npy(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """One .npy a key, written through a memory map."""
    given = _plain(shape)
    gate.ready()
    for key in shape.keys:
        first = given[0][key].numpy()
        shape_ = (count * shape.rows, *first.shape[1:])
        mapped = np.lib.format.open_memmap(f"{path}.{_safe(key)}.npy", "w+", first.dtype, shape_)
        for index in range(count):
            mapped[index * shape.rows : (index + 1) * shape.rows] = given[index % len(given)][
                key
            ].numpy()
        mapped.flush()


def read_npy(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """The memory maps, copied batch by batch."""
    target = _plain_target(shape)
    gate.ready()
    mapped = {key: np.load(f"{path}.{_safe(key)}.npy", mmap_mode="r") for key in shape.keys}
    for index in range(count):
        for key, tensor in target.items():
            tensor.numpy()[:] = mapped[key][index * shape.rows : (index + 1) * shape.rows]


def write_safetensors(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """Shards of some 16 MB: a safetensors file is written whole, and must not hold the same tensor twice."""
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
        _synced_path(f"{path}.{shard}")


def read_safetensors(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """The shards, tensor by tensor."""
    from safetensors import safe_open

    target = _target(shape)
    gate.ready()
    for shard, indices in _shards(shape, count):
        with safe_open(f"{path}.{shard}", framework="pt") as file:
            for index in indices:
                for key, tensor in target.items():
                    tensor.copy_(file.get_tensor(f"{index}.{key}"))


def write_arrow(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """Arrow IPC, a record batch of one row of binary a batch."""
    import pyarrow as pa

    schema = pa.schema([(key, pa.large_binary()) for key in shape.keys])
    given = [
        pa.record_batch(
            [pa.array([value.tobytes()], pa.large_binary()) for value in _bytes(b).values()], schema
        )
        for b in shape.batches()
    ]
    gate.ready()
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for index in range(count):
            writer.write_batch(given[index % len(given)])
    _synced_path(path)


def read_arrow(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """Read into memory it owns."""
    import pyarrow as pa

    target = _bytes(_target(shape))
    gate.ready()
    with pa.OSFile(path, "rb") as source:
        reader = pa.ipc.open_file(source)
        for index in range(count):
            batch = reader.get_batch(index)
            for key, array in target.items():
                array[:] = np.frombuffer(batch.column(key)[0].as_buffer(), np.uint8)


def write_parquet(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """Parquet, uncompressed, a row group a batch."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(key, pa.large_binary()) for key in shape.keys])
    given = [
        pa.record_batch(
            [pa.array([value.tobytes()], pa.large_binary()) for value in _bytes(b).values()], schema
        )
        for b in shape.batches()
    ]
    gate.ready()
    with pq.ParquetWriter(
        path, schema, compression="none", use_dictionary=False, write_statistics=False
    ) as writer:
        for index in range(count):
            writer.write_batch(given[index % len(given)])
    _synced_path(path)


def read_parquet(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """Row group by row group."""
    import pyarrow.parquet as pq

    target = _bytes(_target(shape))
    gate.ready()
    file = pq.ParquetFile(path)
    for index in range(count):
        table = file.read_row_group(index)
        for key, array in target.items():
            array[:] = np.frombuffer(table.column(key)[0].as_buffer(), np.uint8)


def write_hdf5(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """HDF5, a dataset a key, chunked by the batch."""
    import h5py

    given = _plain(shape)
    gate.ready()
    with h5py.File(path, "w") as file:
        for key in shape.keys:
            first = given[0][key].numpy()
            data = file.create_dataset(
                _safe(key), (count * shape.rows, *first.shape[1:]), first.dtype, chunks=first.shape
            )
            for index in range(count):
                data[index * shape.rows : (index + 1) * shape.rows] = given[index % len(given)][
                    key
                ].numpy()
    _synced_path(path)


def read_hdf5(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """Straight into the reused tensors."""
    import h5py

    target = _plain_target(shape)
    gate.ready()
    with h5py.File(path, "r") as file:
        for index in range(count):
            for key, tensor in target.items():
                file[_safe(key)].read_direct(
                    tensor.numpy(), np.s_[index * shape.rows : (index + 1) * shape.rows]
                )


def write_webdataset(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """WebDataset: a tar member a key of a batch."""
    import webdataset as wds

    given = [_bytes(batch) for batch in shape.batches()]
    gate.ready()
    with wds.TarWriter(path) as writer:
        for index in range(count):
            members = {
                f"{_safe(key)}.bin": value.tobytes()
                for key, value in given[index % len(given)].items()
            }
            writer.write({"__key__": f"{index:08d}", **members})
    _synced_path(path)


def read_webdataset(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """The members, as they come."""
    import webdataset as wds

    target = _bytes(_target(shape))
    gate.ready()
    for sample in wds.WebDataset(path, shardshuffle=False):
        for key, array in target.items():
            array[:] = np.frombuffer(sample[f"{_safe(key)}.bin"], np.uint8)


def write_fastavro(gate: Gate, path: str, shape: Shape, count: int, codec: str) -> None:
    """fastavro's own writer, a bytes field a key."""
    import fastavro

    schema: Any = {
        "type": "record",
        "name": "Batch",
        "fields": [{"name": _safe(key), "type": "bytes"} for key in shape.keys],
    }
    given = [
        {_safe(key): value.tobytes() for key, value in _bytes(batch).items()}
        for batch in shape.batches()
    ]
    gate.ready()
    with Path(path).open("wb") as file:
        fastavro.writer(
            file, schema, (given[index % len(given)] for index in range(count)), codec=codec
        )
        _synced(file)


def read_fastavro(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """fastavro's own reader."""
    import fastavro

    target = _bytes(_target(shape))
    gate.ready()
    with Path(path).open("rb") as file:
        record: Any
        for record in fastavro.reader(file):
            for key, array in target.items():
                array[:] = np.frombuffer(record[_safe(key)], np.uint8)


def compress_alone(gate: Gate, shape: Shape, count: int, block_bytes: int) -> int:
    """zstandard by itself on the same bytes, in blocks of the size ours have, on one thread; the compressed size."""
    blocks = _blocks(shape, block_bytes)
    gate.ready()
    total = 0
    for index in range(count * shape.nbytes // block_bytes):
        total += len(zstd.compress(blocks[index % len(blocks)], level=3))
    return total


def decompress_alone(gate: Gate, shape: Shape, count: int, block_bytes: int) -> None:
    """zstandard's way back, on one thread."""
    from tutelage.schemas.container_format import decompress

    blocks = [zstd.compress(block, level=3) for block in _blocks(shape, block_bytes)]
    gate.ready()
    for index in range(count * shape.nbytes // block_bytes):
        decompress("zstandard", blocks[index % len(blocks)], "benchmark")


def drop_caches(path: str) -> None:
    """Have the kernel forget what it holds of a file: the next read is cold."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def _blocks(shape: Shape, block_bytes: int) -> list[bytes]:
    stream = b"".join(
        value.tobytes() for batch in shape.batches() for value in _bytes(batch).values()
    )
    stream *= -(-2 * block_bytes // len(stream))
    return [
        stream[at : at + block_bytes] for at in range(0, len(stream) - block_bytes + 1, block_bytes)
    ]


def _target(shape: Shape) -> dict[str, torch.Tensor]:
    return {key: torch.empty_like(value) for key, value in shape.batch(0).items()}


def _bytes(batch: dict[str, torch.Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    return {key: value.view(-1).view(torch.uint8).numpy() for key, value in batch.items()}


def _plain(shape: Shape) -> list[dict[str, torch.Tensor]]:
    """Batches in dtypes numpy knows."""
    return [{key: _known(value) for key, value in batch.items()} for batch in shape.batches()]


def _plain_target(shape: Shape) -> dict[str, torch.Tensor]:
    return {key: _known(value) for key, value in _target(shape).items()}


def _known(value: torch.Tensor) -> torch.Tensor:
    return value.view(torch.int16) if value.dtype == torch.bfloat16 else value


def _safe(key: str) -> str:
    return "k" + "".join(char if char.isalnum() else "_" for char in key)


def _shards(shape: Shape, count: int) -> Iterator[tuple[int, range]]:
    """As many batches a shard as there are different ones."""
    for shard, first in enumerate(range(0, count, shape.distinct)):
        yield shard, range(first, min(count, first + shape.distinct))


def _synced(file: io.BufferedWriter) -> None:
    file.flush()
    os.fsync(file.fileno())


def _synced_path(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
