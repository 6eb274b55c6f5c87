"""The sides of the offline benchmark that are Tutelage, the system calls and the codec alone.

Writers write batches to a file and sync it. Readers read a file to torch tensors.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from benchmarks.actors import Gate
from benchmarks.buffers import bytes_of, target_of
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
    """A Student with a FileSource. Batches are its own memory, and nothing is copied."""
    from tutelage import FileSource, Student

    key = next(iter(shape.keys))
    gate.ready()
    student = Student()
    student.register_teacher(FileSource(path, verify=verify))
    with student:
        rows = sum(batch[key].shape[0] for batch in student.knowledge(shape.rows))
    assert rows == count * shape.rows


def read_ours_copied(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """As `read_ours`, but each batch is copied to the reused tensors, as for the peers."""
    from tutelage import FileSource, Student

    target = target_of(shape)
    gate.ready()
    student = Student()
    student.register_teacher(FileSource(path))
    with student:
        for batch in student.knowledge(shape.rows):
            for key, tensor in target.items():
                tensor.copy_(batch[key])


def write_raw(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """One writev per batch."""
    given: list[Any] = [list(bytes_of(batch).values()) for batch in shape.batches()]
    gate.ready()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for index in range(count):
        os.writev(descriptor, given[index % len(given)])
    os.fsync(descriptor)
    os.close(descriptor)


def read_raw(gate: Gate, path: str, shape: Shape, count: int) -> None:
    """One preadv per batch, into the reused tensors."""
    target: list[Any] = list(bytes_of(target_of(shape)).values())
    gate.ready()
    descriptor, nbytes = os.open(path, os.O_RDONLY), shape.nbytes
    for index in range(count):
        os.preadv(descriptor, target, index * nbytes)
    os.close(descriptor)


def compress_alone(gate: Gate, shape: Shape, count: int, block_bytes: int) -> int:
    """The zstandard codec alone, on one thread. Returns the compressed size."""
    blocks = _blocks(shape, block_bytes)
    gate.ready()
    total = 0
    for index in range(count * shape.nbytes // block_bytes):
        total += len(zstd.compress(blocks[index % len(blocks)], level=3))
    return total


def decompress_alone(gate: Gate, shape: Shape, count: int, block_bytes: int) -> None:
    """Decompression by the zstandard codec alone, on one thread."""
    from tutelage.schemas.container_format import decompress

    blocks = [zstd.compress(block, level=3) for block in _blocks(shape, block_bytes)]
    gate.ready()
    for index in range(count * shape.nbytes // block_bytes):
        decompress("zstandard", blocks[index % len(blocks)], "benchmark")


def _blocks(shape: Shape, block_bytes: int) -> list[bytes]:
    stream = b"".join(
        value.tobytes() for batch in shape.batches() for value in bytes_of(batch).values()
    )
    stream *= -(-2 * block_bytes // len(stream))
    return [
        stream[at : at + block_bytes] for at in range(0, len(stream) - block_bytes + 1, block_bytes)
    ]
