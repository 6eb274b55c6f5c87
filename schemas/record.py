"""What the two sides speak of: a key's description, a stream's identity, a record.

All of it is frozen and knows no file, no broker and no torch. Tensors are numpy arrays here.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import xxhash

from tutelage.schemas.dtypes import WIRE_ENCODINGS, DType, dtype_named
from tutelage.schemas.errors import DescriptionChanged, SchemaError
from tutelage.schemas.printable import printable

Array: TypeAlias = "np.ndarray[Any, Any]"

#: The version of the format of records, headers and files (docs/format.md). Version 1 had no description in its checksums, so that
#: a record could be decoded with another schema of the same layout; it was never released, and is not read.
FORMAT_VERSION = 2


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """Rows of different length, one behind the other: what a model may return for a ragged key.

    Args:
        values: Array or tensor `[sum(lengths), *inner]`, of any dtype that travels.
        lengths: int64 array or tensor `[rows]`: each row's elements along its first dimension.

    Raises:
        SchemaError: When it is written: the lengths do not add up to the values.
    """

    values: Array
    lengths: Array

    def rows(self, start: int, stop: int) -> Ragged:
        """Return some of the rows, as views.

        Args:
            start: The first row.
            stop: The row behind the last.

        Returns:
            The rows `start` to `stop`.
        """
        first = int(self.lengths[:start].sum())
        last = first + int(self.lengths[start:stop].sum())
        return Ragged(self.values[first:last], self.lengths[start:stop])


Column: TypeAlias = "Array | Ragged"


@dataclass(frozen=True, kw_only=True, slots=True)
class KeySpec:
    """What one key holds: the dtype the model gave, the shape of one row, and how it travels.

    `shape` is the inner shape (without rows); a ragged key has -1 as its first element. `wire` is the dtype on the wire,
    the same as `dtype` unless an encoding to fewer bytes was asked for.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    wire: str = ""

    def __post_init__(self) -> None:
        where = f"key {self.key!r}"
        dtype_named(self.dtype, where)
        if not self.wire:
            object.__setattr__(self, "wire", self.dtype)
        if self.wire != self.dtype and self.wire not in WIRE_ENCODINGS.get(self.dtype, ()):
            allowed = ", ".join(WIRE_ENCODINGS.get(self.dtype, ())) or "nothing else"
            raise SchemaError(
                f"{where}: {self.dtype} cannot travel as {self.wire!r}; it can travel as {allowed}"
            )
        if any(size < 0 for size in self.inner) or any(size > 2**31 - 1 for size in self.shape):
            raise SchemaError(
                f"{where}: shape {self.shape} is not the shape of a row; only the first size may be -1"
            )

    @property
    def ragged(self) -> bool:
        """Whether rows differ in length."""
        return bool(self.shape) and self.shape[0] == -1

    @property
    def inner(self) -> tuple[int, ...]:
        """The shape of what `row_bytes` counts: of a row, or of one element of a ragged row."""
        return self.shape[1:] if self.ragged else self.shape

    @property
    def storage(self) -> DType:
        """The dtype on the wire."""
        return dtype_named(self.wire, f"key {self.key!r}")

    def __str__(self) -> str:
        sizes = ", ".join(str(size) for size in self.shape)
        return f"{self.dtype}[{sizes}]" + (f" as {self.wire}" if self.wire != self.dtype else "")


@dataclass(frozen=True, slots=True)
class Description(Mapping[str, KeySpec]):
    """What a stream's batches hold: key -> KeySpec, in the order the teacher gave."""

    specs: tuple[KeySpec, ...]

    def __post_init__(self) -> None:
        if not self.specs:
            raise SchemaError("the knowledge has no keys; a batch must hold at least one tensor")
        keys = [spec.key for spec in self.specs]
        if len(set(keys)) != len(keys):
            raise SchemaError(
                f"keys appear twice: {sorted(key for key in set(keys) if keys.count(key) > 1)}"
            )

    def __getitem__(self, key: str) -> KeySpec:
        for spec in self.specs:
            if spec.key == key:
                return spec
        raise KeyError(key)

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter([spec.key for spec in self.specs])

    def __len__(self) -> int:
        return len(self.specs)

    def __str__(self) -> str:
        return ", ".join(f"{spec.key!r}: {spec}" for spec in self.specs)

    def canonical_bytes(self) -> bytes:
        """The description as bytes, for checksums: the same in every language (docs/format.md).

        Per key, in order: key, dtype and wire dtype, each as its length in bytes and its UTF-8, then the number of sizes of one row's
        shape and those sizes. All numbers are little-endian int64.
        """
        parts: list[bytes] = []
        for spec in self.specs:
            for text in (spec.key, spec.dtype, spec.wire):
                parts += (struct.pack("<q", len(text.encode())), text.encode())
            parts.append(struct.pack(f"<{1 + len(spec.shape)}q", len(spec.shape), *spec.shape))
        return b"".join(parts)

    def fingerprint(self) -> str:
        """xxh3-64 of `canonical_bytes`, in hexadecimal."""
        return xxhash.xxh3_64_hexdigest(self.canonical_bytes())


def refuse_changes(old: Description, new: Description, where: str) -> None:
    """Refuse a dtype or row shape that differs for a key both have; added and removed keys are allowed.

    Raises DescriptionChanged naming `where`, the key and both descriptions.
    """
    for key, spec in new.items():
        before = old.get(key)
        if before is not None and (before.dtype, before.shape) != (spec.dtype, spec.shape):
            raise DescriptionChanged(
                f"{where}: key {key!r} was {before} and would become {spec}; give it another name, or write elsewhere"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """Who wrote a stream and how it is cut: fixed when a run starts, carried with it everywhere.

    `partitions` is P and `rows_per_record` is R of the contract. `inputs_fingerprint` is the user's, of what the teacher read (data set,
    tokenizer, order, seed), empty if the user gave none. `created` is in seconds since the epoch.
    """

    run_id: str
    teacher: str
    revision: str
    inputs_fingerprint: str
    passes: int
    partitions: int
    rows_per_record: int
    created: float
    version: str

    def __str__(self) -> str:
        return f"run {printable(self.run_id)} of teacher {self.teacher!r}"


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """How much one pass held: records before the end record, and rows in them."""

    records: int
    rows: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordHead:
    """The fixed part of a record. `sequence` counts from 0 in each pass; an end record has the number after the last."""

    run_id: str
    pass_index: int
    sequence: int
    rows: int
    generation: int
    end: End | None = None

    def __str__(self) -> str:
        kind = "end" if self.end is not None else "record"
        return f"{kind} {self.sequence} of pass {self.pass_index}"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Record:
    """One decoded record: its head, its columns as views into `raw`, and the Avro bytes it came from.

    An end record has no columns. `raw` is the Avro body alone: no framing, no block.
    """

    head: RecordHead
    columns: Mapping[str, Column] = field(repr=False)
    raw: memoryview = field(repr=False)

    @property
    def nbytes(self) -> int:
        """The length of its Avro body."""
        return self.raw.nbytes

    def load(self) -> Record:
        """Itself: it is in memory already (a record that is still in its file is read by this)."""
        return self
