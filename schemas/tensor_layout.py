"""The tensors of a record <-> their Avro bytes, key by key, without copying data.

Encoding yields the buffers that make up a key; decoding yields arrays that are views of the bytes.
Knows neither heads nor checksums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from tutelage.schemas.record import Array, Column, Description, KeySpec, Ragged
from tutelage.schemas.varint import decode_long, encode_long


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseLayout:
    """The bytes after the head of a record whose keys are all dense.

    Args:
        prefixes: Per key, the bytes before its data: its shape, and the length of the data.
        sizes: Per key, the bytes of its data.
        shapes: The shapes of all keys, concatenated.
        nbytes: The length of all of it.
    """

    prefixes: tuple[bytes, ...]
    sizes: tuple[int, ...]
    shapes: tuple[int, ...]
    nbytes: int


def as_bytes(array: Array) -> Array:
    """View an array's bytes as a flat uint8 array; copies only an array that is not contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def encode_key(
    spec: KeySpec, pieces: Sequence[Column], rows: int
) -> tuple[list[bytes | Array], list[int]]:
    """Encode one key of a record.

    Args:
        spec: The key.
        pieces: Its rows in order, in pieces; none in an end record.
        rows: The rows of all pieces together.

    Returns:
        The key's Avro bytes in order, tensors as flat uint8 arrays and the rest as bytes; and its
        shape.
    """
    if not pieces:
        # An end record: every tensor is empty.
        return [encode_long(0) * (3 if spec.ragged else 2)], []
    if not spec.ragged:
        data = [as_bytes(cast("Array", piece)) for piece in pieces]
        shape = [rows, *spec.shape]
        return [
            _encode_shape(shape) + encode_long(sum(piece.nbytes for piece in data)),
            *data,
        ], shape
    ragged = cast("Sequence[Ragged]", pieces)
    lengths = as_bytes(np.concatenate([piece.lengths for piece in ragged]).astype("<i4"))
    data = [as_bytes(piece.values) for piece in ragged]
    shape = [sum(len(piece.values) for piece in ragged), *spec.inner]
    return [
        encode_long(lengths.nbytes),
        lengths,
        _encode_shape(shape) + encode_long(sum(piece.nbytes for piece in data)),
        *data,
    ], shape


def dense_layout(description: Description, rows: int) -> DenseLayout:
    """Lay out a record of `rows` rows whose keys are all dense."""
    sizes = [rows * math.prod(spec.shape) * spec.wire_dtype.itemsize for spec in description.specs]
    shapes = [[rows, *spec.shape] for spec in description.specs]
    prefixes = [
        _encode_shape(shape) + encode_long(size) for shape, size in zip(shapes, sizes, strict=True)
    ]
    return DenseLayout(
        prefixes=tuple(prefixes),
        sizes=tuple(sizes),
        shapes=tuple(size for shape in shapes for size in shape),
        nbytes=sum(map(len, prefixes)) + sum(sizes),
    )


def build_column(
    spec: KeySpec, rows: int, shape: Sequence[int], data: Array, lengths: Array | None
) -> Column:
    """Build a key's column from its decoded parts.

    Args:
        spec: The key.
        rows: The record's rows.
        shape: The shape that stands in the record.
        data: The data, flat uint8.
        lengths: Of a ragged key, the length of each row.

    Returns:
        A view of `data`.

    Raises:
        ValueError: The parts do not agree with each other, or with the description.
    """
    count = shape[0] if shape else -1
    expected = math.prod(shape) * spec.wire_dtype.itemsize
    if tuple(shape[1:]) != spec.inner or count < 0 or expected != data.nbytes:
        raise ValueError(
            f"key {spec.key!r} is {spec}, but {data.nbytes} bytes of shape {list(shape)} were read"
        )
    values = data.view(spec.wire_dtype.numpy_dtype).reshape(shape)
    if lengths is None:
        if count != rows:
            raise ValueError(f"key {spec.key!r} has {count} rows in a record of {rows}")
        return values
    if (
        len(lengths) != rows
        or (rows and lengths.min() < 0)
        or int(lengths.sum(dtype=np.int64)) != count
    ):
        raise ValueError(
            f"key {spec.key!r}: its {len(lengths)} lengths do not add up to {count} elements "
            f"in {rows} rows"
        )
    return Ragged(values, lengths.astype(np.int64))


def decode_shape(view: memoryview, position: int, max_dimensions: int) -> tuple[list[int], int]:
    """Decode an array<int> in any number of blocks, with or without their sizes.

    Other Avro libraries write it in other blocks than we do.

    Returns:
        The shape, and the position after it.

    Raises:
        ValueError: It has more dimensions than `max_dimensions`, or a size that cannot be.
        IndexError: The bytes end inside it.
    """
    shape: list[int] = []
    while True:
        count, position = decode_long(view, position)
        if count == 0:
            return shape, position
        if count < 0:
            count = -count
            _, position = decode_long(view, position)
        if len(shape) + count > max_dimensions:
            raise ValueError(f"a shape of {len(shape) + count} sizes")
        for _ in range(count):
            size, position = decode_long(view, position)
            if not 0 <= size < 2**31:
                raise ValueError(f"a size of {size}")
            shape.append(size)


def _encode_shape(shape: Sequence[int]) -> bytes:
    """A non-empty array<int> as one block."""
    return b"".join((encode_long(len(shape)), *map(encode_long, shape), b"\x00"))
