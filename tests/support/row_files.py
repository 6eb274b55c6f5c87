"""Knowledge files for tests of random access, and what a student gets of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.knowledge import column_of
from support.streams import stream_of

from tutelage import FileSource, RaggedFormat, SparseTarget, Student
from tutelage.schemas.codec import Codec
from tutelage.schemas.container_writer import ContainerWriter
from tutelage.schemas.record import Description, End, RecordHead


def write_file(
    path: Path,
    description: Description,
    passes: Sequence[int],
    rows_per_record: int,
    *,
    codec: str = "null",
    seed: int = 0,
    generation: int = 0,
) -> None:
    """Write passes of so many rows of random bits."""
    stream = stream_of(rows_per_record=rows_per_record, passes=len(passes))
    writer = ContainerWriter.create(path, stream, description, codec)
    encoder, random = Codec(description), np.random.default_rng(seed)
    for pass_index, rows in enumerate(passes):
        counts = [min(rows_per_record, rows - first) for first in range(0, rows, rows_per_record)]
        for sequence, count in enumerate([*counts, 0]):
            head = RecordHead(
                run_id=stream.run_id,
                pass_index=pass_index,
                sequence=sequence,
                rows=count,
                generation=generation,
                end=None if count else End(records=len(counts), rows=rows),
            )
            columns = {
                spec.key: [column_of(spec, count, random)] for spec in description.specs if count
            }
            writer.append(writer.pack(encoder.encode(head, columns)))
    writer.finish()


def student_rows(
    *paths: Path,
    pass_index: int = 0,
    batch_size: int = 1,
    ragged_format: RaggedFormat | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """The batches of a student of these files."""
    student = Student(timeout_s=20, ragged_format=ragged_format, **options)
    for path in paths:
        student.register_teacher(FileSource(path))
    with student:
        return list(student.knowledge(batch_size, pass_index=pass_index, own_memory=True))


def assert_same(one: Any, other: Any) -> None:
    """Check that two values, or dicts of them, are equal bit for bit, dtype and shape included."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, SparseTarget):
        assert (one.vocabulary, one.draws, one.shape) == (
            other.vocabulary,
            other.draws,
            other.shape,
        )
        assert_same(one.tensors(), other.tensors())
    else:
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert _bits(one) == _bits(other)


def _bits(tensor: torch.Tensor) -> bytes:
    flat = tensor.contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""
