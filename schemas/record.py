"""The types that both sides share: the description of keys, the identity of a stream, a record.

All are frozen, and tensors are numpy arrays. Knows no files, brokers or torch.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import xxhash

from tutelage.schemas.dtypes import WIRE_ENCODINGS, DType, dtype_from_name
from tutelage.schemas.encodings import ENCODED_DTYPES, ENCODING_FORMS, Encoding, parse_encoding
from tutelage.schemas.errors import ConfigurationError, DescriptionChanged, SchemaError
from tutelage.schemas.printable import printable

Array: TypeAlias = "np.ndarray[Any, Any]"

#: The version of the format of records, headers and files (docs/format.md). Version 1 had no
#: description in its checksums, so that a record could be decoded with another schema of the same
#: layout. It was never released, and is not read.
FORMAT_VERSION = 2


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """Rows of different length, concatenated: what a model may return for a ragged key.

    Args:
        values: Array or tensor `[sum(lengths), *inner]`, of any dtype that can be carried.
        lengths: int64 array or tensor `[rows]`: each row's elements along its first dimension.

    Raises:
        SchemaError: Only when it is written: the lengths do not add up to the values.
    """

    values: Array
    lengths: Array

    def rows(self, start: int, stop: int) -> Ragged:
        """Return some of the rows, as views.

        Args:
            start: The first row.
            stop: The row after the last.

        Returns:
            The rows `start` to `stop`.
        """
        first = int(self.lengths[:start].sum())
        last = first + int(self.lengths[start:stop].sum())
        return Ragged(self.values[first:last], self.lengths[start:stop])


Column: TypeAlias = "Array | Ragged"


@dataclass(frozen=True, kw_only=True, slots=True)
class KeySpec:
    """The description of one key.

    Args:
        key: Its name.
        dtype: The model's dtype.
        shape: The shape of one row. A ragged key has -1 as its first size.
        wire: How it travels: `dtype`, unless the user asked for one of fewer bytes, or for an
            encoding of its vectors, such as "sampled:25" (`encodings.py`).

    Raises:
        SchemaError: A dtype cannot be carried, `dtype` cannot travel as `wire`, or `shape` is not
            the shape of a row.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    wire: str = ""
    #: The encoding of its vectors; None if `wire` is a dtype.
    encoding: Encoding | None = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        where = f"key {self.key!r}"
        dtype_from_name(self.dtype, where)
        if not self.wire:
            object.__setattr__(self, "wire", self.dtype)
        if any(size < 0 for size in self.inner) or any(size > 2**31 - 1 for size in self.shape):
            raise SchemaError(
                f"{where}: shape {self.shape} is not the shape of a row; only the first size may "
                "be -1"
            )
        object.__setattr__(self, "encoding", self._parse_wire(where))

    def _parse_wire(self, where: str) -> Encoding | None:
        if self.wire == self.dtype or self.wire in WIRE_ENCODINGS.get(self.dtype, ()):
            return None
        try:
            encoding = parse_encoding(self.wire)
        except ConfigurationError as error:
            raise SchemaError(f"{where}: {error}") from error
        if encoding is None or str(encoding) != self.wire or self.dtype not in ENCODED_DTYPES:
            allowed = ", ".join(WIRE_ENCODINGS.get(self.dtype, ()))
            encodings = ENCODING_FORMS if self.dtype in ENCODED_DTYPES else ""
            allowed = ", ".join(filter(None, (allowed, encodings))) or "nothing else"
            raise SchemaError(
                f"{where}: {self.dtype} cannot travel as {self.wire!r}; it can travel as {allowed}"
            )
        if not self.inner:
            raise SchemaError(
                f"{where}: its rows, of shape {list(self.shape)}, have no vectors to encode as "
                f"{self.wire}; they must be [..., size of a vector]"
            )
        try:
            encoding.stored_shape(self.shape)
        except SchemaError as error:
            raise SchemaError(f"{where} cannot travel as {self.wire}: {error}") from error
        return encoding

    @property
    def ragged(self) -> bool:
        """Whether rows differ in length."""
        return bool(self.shape) and self.shape[0] == -1

    @property
    def inner(self) -> tuple[int, ...]:
        """The shape of one row, or of one element of a ragged row."""
        return self.shape[1:] if self.ragged else self.shape

    @property
    def stored(self) -> KeySpec:
        """The tensor that records hold: itself, or for an encoded key its bytes."""
        if self.encoding is None:
            return self
        return KeySpec(key=self.key, dtype="uint8", shape=self.encoding.stored_shape(self.shape))

    @property
    def wire_dtype(self) -> DType:
        """The dtype of the stored tensor."""
        name = self.wire if self.encoding is None else "uint8"
        return dtype_from_name(name, f"key {self.key!r}")

    def __str__(self) -> str:
        sizes = ", ".join(str(size) for size in self.shape)
        return f"{self.dtype}[{sizes}]" + (f" as {self.wire}" if self.wire != self.dtype else "")


@dataclass(frozen=True, slots=True)
class Description(Mapping[str, KeySpec]):
    """What the batches of a stream hold: key -> KeySpec, in the teacher's order.

    Raises:
        SchemaError: There is no key, or a key appears twice.
    """

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

    @property
    def stored(self) -> Description:
        """The tensors that records hold: encoded keys as their bytes."""
        if all(spec.encoding is None for spec in self.specs):
            return self
        return Description(tuple(spec.stored for spec in self.specs))

    def canonical_bytes(self) -> bytes:
        """The description as bytes for checksums, the same in every language (docs/format.md).

        For each key in order: the key, dtype and wire, each as its length in bytes and its
        UTF-8; then the number of dimensions of a row, and its sizes. All numbers are little-endian
        int64.
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


def check_compatible(old: Description, new: Description, where: str) -> None:
    """Check that keys in both descriptions keep their dtype and row shape.

    Keys may be added and removed.

    Raises:
        DescriptionChanged: A key changed. The message names `where`, the key and both versions.
    """
    for key, spec in new.items():
        before = old.get(key)
        if before is None:
            continue
        # A registry refuses to turn a dense field into a ragged one, as some encodings do.
        same = (before.dtype, before.shape) == (spec.dtype, spec.shape)
        if not same or before.stored.ragged != spec.stored.ragged:
            raise DescriptionChanged(
                f"{where}: key {key!r} was {before} and would become {spec}; give it another name, "
                "or write elsewhere"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """The identity of a stream: who wrote it, and how it is divided. Fixed when a run starts.

    Args:
        run_id: The run.
        teacher: The teacher's name.
        revision: The revision of the teacher's model.
        inputs_fingerprint: The user's fingerprint of what the teacher read (data set, tokenizer,
            order, seed); empty if the user gave none.
        passes: How many times the teacher reads its inputs.
        partitions: P of the contract: the partitions that hold the records.
        rows_per_record: R of the contract: the rows of each record but a pass's last.
        created: When the run started, in seconds since the epoch.
        version: The version of Tutelage that wrote it.
        head: The checksum of the head that turns its hidden states into logits; empty if it has no
            hidden states, or their head is not known.
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
    head: str = ""

    def __str__(self) -> str:
        return f"run {printable(self.run_id)} of teacher {self.teacher!r}"


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """The size of one pass: the records before its end record, and the rows in them."""

    records: int
    rows: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordHead:
    """The head of a record.

    Args:
        run_id: The run it belongs to.
        pass_index: Its pass, counted from 0.
        sequence: Its number, counted from 0 in each pass. An end record has the number after the
            last.
        rows: The rows it holds; 0 in an end record.
        generation: The number of the writer: each restart of the teacher has a higher one.
        end: The size of the pass; only in an end record.
    """

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
    """One decoded record.

    Args:
        head: Its head.
        columns: Key -> its rows, as views of `raw`. Empty in an end record.
        raw: The Avro body it was decoded from, without framing or block.
    """

    head: RecordHead
    columns: Mapping[str, Column] = field(repr=False)
    raw: memoryview = field(repr=False)

    @property
    def nbytes(self) -> int:
        """The length of the Avro body."""
        return self.raw.nbytes

    def load(self) -> Record:
        """Return itself. (`StoredRecord.load` reads a record that is still in its file.)"""
        return self
