"""What the fuzzing's inputs are made of: two descriptions, a pass of three records each, and files of them."""

from __future__ import annotations

import math
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from support.streams import stream_of

from tutelage.schemas.codec import Codec, Encoded
from tutelage.schemas.container_writer import ContainerWriter
from tutelage.schemas.record import Column, Description, End, KeySpec, Ragged, RecordHead

DENSE = Description(
    (KeySpec(key="x", dtype="float32", shape=(2,)), KeySpec(key="y", dtype="int16", shape=()), KeySpec(key="z", dtype="bool", shape=(0,)))
)  # fmt: skip
MIXED = Description(
    (
        KeySpec(key="2x-1", dtype="int64", shape=(1,)),
        KeySpec(key="logits", dtype="float32", shape=(3,), wire="float16"),
        KeySpec(key="tokens", dtype="int32", shape=(-1, 2)),
    )
)
STREAM = stream_of(rows_per_record=3, partitions=1)
_ROWS = (3, 3, 2)
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "2"


def columns_of(description: Description, rows: int, first: int) -> dict[str, list[Column]]:
    """Numbers that are all different."""
    columns: dict[str, list[Column]] = {}
    for spec in description.specs:
        if spec.ragged:
            lengths = np.arange(first, first + rows) % 3
            count = int(lengths.sum())
            values = (
                np.arange(count * math.prod(spec.inner)).reshape(count, *spec.inner) + 17 * first
            )
            columns[spec.key] = [Ragged(values.astype(spec.wire_dtype.numpy_dtype), lengths)]
        else:
            size = rows * math.prod(spec.shape)
            columns[spec.key] = [
                (np.arange(size) + 31 * first)
                .astype(spec.wire_dtype.numpy_dtype)
                .reshape(rows, *spec.shape)
            ]
    return columns


@cache
def records(description: Description) -> tuple[Encoded, ...]:
    """A pass of three records and its end."""
    codec, made = Codec(description), []
    for sequence, rows in enumerate(_ROWS):
        head = RecordHead(
            run_id="run", pass_index=0, sequence=sequence, rows=rows, generation=sequence % 2
        )
        made.append(codec.encode(head, columns_of(description, rows, 3 * sequence)))
    end = End(records=len(_ROWS), rows=sum(_ROWS))
    head = RecordHead(
        run_id="run", pass_index=0, sequence=len(_ROWS), rows=0, generation=0, end=end
    )
    return (*made, codec.encode(head, {}))


@cache
def container(description: Description, codec: str) -> bytes:
    """A file of the records."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.avro"
        writer = ContainerWriter.create(path, STREAM, description, codec)
        for one in records(description):
            writer.append(writer.pack(one))
        writer.finish()
        return path.read_bytes()
