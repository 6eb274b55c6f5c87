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
from tutelage.schemas.record import KeySpec


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyValues:
    """One key's values, on the device and in the dtype that the model returned.

    Attributes:
        spec: The key's description.
        rows: How many rows it has.
        values: A torch tensor or numpy array `[rows, ...]`; `[elements, ...]` if the key is ragged.
        lengths: The rows' lengths `[rows]`, if the key is ragged.
    """

    spec: KeySpec
    rows: int
    values: Any
    lengths: Any = None


def check_key(key: str, value: Any, options: WireOptions, promised: KeySpec | None) -> KeyValues:
    """Check what the model returned for a key.

    Args:
        key: The key.
        value: What the model returned for it.
        options: The wire dtypes and ragged keys that the user asked for.
        promised: The description that the key must match; None before the first batch.

    Raises:
        SchemaError: The value cannot be sent.
        DescriptionChanged: It differs from what was promised.
    """
    where = f"key {key!r}"
    declared = key in options.ragged or (promised is not None and promised.ragged)
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
    inner = tuple(values.shape[1:])
    if lengths is None and declared and inner:
        # Padded rows of a ragged key: all have the same length.
        lengths = np.full(values.shape[0], inner[0], np.int64)
        values = values.reshape(values.shape[0] * inner[0], *inner[1:])
        inner = inner[1:]
    shape = inner if lengths is None else (-1, *inner)
    rows = values.shape[0] if lengths is None else len(lengths)
    if promised is not None:
        _check_promise(where, dtype, shape, promised)
        return KeyValues(spec=promised, rows=rows, values=values, lengths=lengths)
    spec = KeySpec(key=key, dtype=dtype.name, shape=shape, wire=options.encoding(key, dtype.name))
    return KeyValues(spec=spec, rows=rows, values=values, lengths=lengths)


def _check_promise(where: str, dtype: DType, shape: tuple[int, ...], promised: KeySpec) -> None:
    if (promised.dtype, promised.shape) == (dtype.name, shape):
        return
    hint = (
        "; rows of varying length must be declared: Teacher(ragged_keys=[...])"
        if promised.dtype == dtype.name
        else ""
    )
    found = KeySpec(key=promised.key, dtype=dtype.name, shape=shape)
    raise DescriptionChanged(
        f"{where} was {promised} and became {found} in the middle of a run{hint}"
    )


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
