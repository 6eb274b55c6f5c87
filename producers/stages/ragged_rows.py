"""A key whose rows differ in length -> all elements, row after row, and the length of each row."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tutelage.producers.stages.plain_tensors import to_plain
from tutelage.schemas.dtypes import DType, dtype_from_name
from tutelage.schemas.errors import SchemaError
from tutelage.schemas.record import Array, KeySpec, Ragged


def split_ragged(
    value: Any, key: str, *, declared: bool, promised: KeySpec | None
) -> tuple[Any, Any] | None:
    """Return the values and lengths of a ragged key; None if the value has no ragged form.

    The forms are `Ragged`, a nested tensor, and a list or tuple of one tensor per row. A list is
    accepted only if the key was declared ragged: otherwise its items may be rows, layers or
    columns.

    Args:
        value: What the model returned for the key.
        key: The key.
        declared: Whether the key is in `ragged_keys`, or the run's description has it as ragged.
        promised: What the run's description says of the key; None before the first batch.

    Returns:
        The values `[elements, ...]`, a tensor or array, and the lengths `[rows]`, int64.

    Raises:
        SchemaError: The value has a ragged form, but its rows or lengths are not valid.
    """
    where = f"key {key!r}"
    if isinstance(value, Ragged):
        values, _ = to_plain(value.values, where)
        if values.ndim == 0:
            raise SchemaError(
                f"{where}: the values of a Ragged are a single number; they must be the rows, one "
                "after the other"
            )
        return values, _check_lengths(value, len(values), where)
    if isinstance(value, torch.Tensor):
        if not value.is_nested or torch._C._functorch.is_functorch_wrapped_tensor(value):
            return None
        return _concatenate_rows(list(value.unbind()), where, promised)
    if not isinstance(value, (list, tuple)) or hasattr(value, "_fields"):
        return None
    if not value:
        return _concatenate_rows([], where, promised) if declared and promised is not None else None
    if not all(isinstance(row, (torch.Tensor, np.ndarray)) for row in value):
        return None
    if not declared:
        raise SchemaError(
            f"{where} is a {type(value).__name__} of {len(value)} tensors, which may be rows, "
            "layers or columns. Rows of different length are declared: "
            f"Teacher(..., ragged_keys=[{key!r}]), or given as Ragged(values, lengths); layers are "
            "stacked: torch.stack(list(value), 1)"
        )
    return _concatenate_rows(list(value), where, promised)


def _concatenate_rows(rows: list[Any], where: str, promised: KeySpec | None) -> tuple[Any, Any]:
    found = [to_plain(row, f"{where}, row {index},") for index, row in enumerate(rows)]
    if any(row.ndim == 0 for row, _ in found):
        raise SchemaError(
            f"{where}: a ragged row is a single number; each must be a tensor of its elements"
        )
    lengths = np.array([len(row) for row, _ in found], np.int64)
    # Empty rows are ignored, whatever their dtype, device and shape: torch.tensor([]) is float32.
    filled = [(row, dtype) for row, dtype in found if len(row)]
    if not filled:
        return _no_elements(found, promised), lengths
    _check_rows_match(filled, where)
    kept = [row for row, _ in filled]
    return (torch.cat(kept) if isinstance(kept[0], torch.Tensor) else np.concatenate(kept)), lengths


def _check_rows_match(rows: list[tuple[Any, DType]], where: str) -> None:
    """Check that all rows have one dtype, one device and one inner shape. Raises SchemaError."""
    names = sorted({dtype.name for _, dtype in rows})
    if len(names) > 1:
        raise SchemaError(
            f"{where}: its ragged rows are of {' and '.join(names)}; convert them to one dtype"
        )
    devices = sorted(
        {str(row.device) if isinstance(row, torch.Tensor) else "numpy" for row, _ in rows}
    )
    if len(devices) > 1:
        raise SchemaError(
            f"{where}: its ragged rows are in different places: {', '.join(devices)}; move them to "
            "one"
        )
    inner = {tuple(row.shape[1:]) for row, _ in rows}
    if len(inner) > 1:
        shapes = ", ".join(str(list(shape)) for shape in sorted(inner, key=len))
        raise SchemaError(
            f"{where}: its ragged rows do not fit together: {shapes} behind the first dimension, "
            "the only one that may differ"
        )


def _no_elements(found: list[tuple[Any, DType]], promised: KeySpec | None) -> Any:
    """Values for rows that are all empty: of the promised dtype and shape, or the first row's."""
    if promised is not None:
        return np.empty((0, *promised.inner), dtype_from_name(promised.dtype, "key").numpy_dtype)
    assert found, "without rows and without a promise, the batch has no columns"
    return found[0][0][:0]


def _check_lengths(ragged: Ragged, elements: int, where: str) -> Array:
    # Users may also give torch tensors, on any device.
    given: Any = ragged.lengths
    lengths: Any = given.cpu().numpy() if isinstance(given, torch.Tensor) else np.asarray(given)
    fits = (
        lengths.ndim == 1
        and lengths.dtype.kind in "iu"
        and (not lengths.size or int(lengths.min()) >= 0)
    )
    if not fits or int(lengths.sum()) != elements or (lengths.size and int(lengths.max()) >= 2**31):
        raise SchemaError(
            f"{where}: lengths must be whole numbers, 0 or more, that add up to the {elements} "
            "elements"
        )
    return np.asarray(lengths, np.int64)
