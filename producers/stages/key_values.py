"""What a model returned for one key -> its values and lengths, with the key's description."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tutelage.producers.stages.plain_tensors import to_plain
from tutelage.producers.stages.ragged_rows import split_ragged
from tutelage.producers.wire_options import WireOptions
from tutelage.schemas.dtypes import DType, dtype_from_name
from tutelage.schemas.errors import DescriptionChanged, SchemaError
from tutelage.schemas.record import KeySpec, Ragged


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyValues:
    """One key's values, on the device that the model returned them on.

    Attributes:
        spec: The key's description.
        rows: How many rows it has.
        values: A torch tensor or numpy array `[rows, ...]` of the model's dtype; `[elements, ...]`
            if the key is ragged. Of an encoded key, what is stored: uint8, and where it is ragged
            at least as many elements as all lengths together.
        lengths: The rows' lengths `[rows]`, if what is stored is ragged.
        invalid: A bool tensor `[]` that says whether a value could not be encoded; None if all can.
        where: The batch of an encoded key, for messages.
    """

    spec: KeySpec
    rows: int
    values: Any
    lengths: Any = None
    invalid: Any = None
    where: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainKey:
    """What a model returned for a key, as a plain tensor or array.

    Attributes:
        values: `[rows, ...]`; `[elements, ...]` if the key is ragged.
        dtype: Their dtype.
        lengths: The rows' lengths, int64 `[rows]`, if the key is ragged.
    """

    values: Any
    dtype: DType
    lengths: Any = None

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.values.shape[0] if self.lengths is None else len(self.lengths)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row; -1 first if the key is ragged."""
        inner = tuple(self.values.shape[1:])
        return inner if self.lengths is None else (-1, *inner)


def plain_key(key: str, value: Any, *, declared: bool, promised: KeySpec | None) -> PlainKey:
    """Return what a model returned for a key as a plain tensor or array.

    Args:
        key: The key.
        value: What the model returned for it.
        declared: Whether its rows differ in length. Padded rows then count as rows of one length.
        promised: The description that the key must match; None before the first batch.

    Raises:
        SchemaError: The value cannot be sent.
    """
    where = f"key {key!r}"
    ragged = split_ragged(value, key, declared=declared, promised=promised)
    lengths = None
    if ragged is not None:
        value, lengths = ragged
    elif promised is not None and isinstance(value, (list, tuple)) and not value:
        value = np.empty((0, *promised.shape), dtype_from_name(promised.dtype, where).numpy_dtype)
    values, dtype = _values_and_dtype(value, where, promised)
    if values.ndim == 0:
        raise SchemaError(
            f"{where} is a single number; its first dimension must be the batch's rows"
        )
    if lengths is None and declared and values.ndim > 1:
        rows, longest, *inner = values.shape
        lengths = np.full(rows, longest, np.int64)
        values = values.reshape(rows * longest, *inner)
    return PlainKey(values=values, dtype=dtype, lengths=lengths)


def is_int8(value: Any) -> bool:
    """Whether a model's value for a key is a tensor or array of int8, or ragged rows of it."""
    held = value.values if isinstance(value, Ragged) else value
    return str(getattr(held, "dtype", "")).removeprefix("torch.") == "int8"


def check_key(key: str, value: Any, options: WireOptions, promised: KeySpec | None) -> KeyValues:
    """Check what the model returned for a key.

    Args:
        key: The key.
        value: What the model returned for it; `KeyValues` if it was encoded.
        options: How keys travel, as the user asked.
        promised: The description that the key must match; None before the first batch.

    Raises:
        SchemaError: The value cannot be sent.
        DescriptionChanged: It differs from what was promised.
    """
    if isinstance(value, KeyValues):
        return value
    declared = key in options.ragged or (promised is not None and promised.ragged)
    plain = plain_key(key, value, declared=declared, promised=promised)
    spec = describe_key(key, plain.dtype.name, plain.shape, options, promised)
    return KeyValues(spec=spec, rows=plain.rows, values=plain.values, lengths=plain.lengths)


def describe_key(
    key: str,
    dtype: str,
    shape: tuple[int, ...],
    options: WireOptions,
    promised: KeySpec | None,
) -> KeySpec:
    """Return the description of a key, which is the promised one if there is one.

    Args:
        key: The key.
        dtype: The dtype of its values.
        shape: The shape of a row.
        options: How keys travel, as the user asked.
        promised: The description that the key must match; None before the first batch.

    Raises:
        SchemaError: The key cannot travel so.
        DescriptionChanged: It differs from what was promised.
    """
    if promised is None:
        return KeySpec(key=key, dtype=dtype, shape=shape, wire=options.encoding(key, dtype))
    if (promised.dtype, promised.shape) != (dtype, shape):
        hint = (
            "; rows of varying length must be declared: Teacher(ragged_keys=[...])"
            if promised.dtype == dtype
            else ""
        )
        found = KeySpec(key=key, dtype=dtype, shape=shape)
        raise DescriptionChanged(
            f"key {key!r} was {promised} and became {found} in the middle of a run{hint}"
        )
    return promised


def _values_and_dtype(value: Any, where: str, promised: KeySpec | None) -> tuple[Any, DType]:
    values, dtype = to_plain(value, where)
    if (
        promised is not None
        and isinstance(value, np.ndarray)
        and dtype.name != promised.dtype
        and not value.size
    ):
        # Several dtypes share a numpy dtype (float4 is stored as bytes), and an array without
        # elements does not show which of them is meant.
        named = dtype_from_name(promised.dtype, where)
        if named.numpy_dtype == dtype.numpy_dtype:
            return values, named
    return values, dtype
