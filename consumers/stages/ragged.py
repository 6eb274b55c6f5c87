"""Ragged keys: the format in which their rows are given, and the copies that it needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tutelage.consumers.stages.overflow import dtype_range
from tutelage.consumers.stages.torch_view import bit_view, bits_dtype, torch_dtype
from tutelage.schemas.arguments import check_flag, check_text
from tutelage.schemas.dtypes import DTYPES
from tutelage.schemas.errors import ConfigurationError, MergeError
from tutelage.schemas.record import Array, Column, Ragged
from tutelage.schemas.tensor_layout import as_bytes

# Rows with at least this many elements are copied one by one: 64 rows of up to 4,096 float32 take
# 0.27 ms, with a mask 0.76 ms.
_LONG_ROW = 512

PadValue = bool | int | float


@dataclass(frozen=True, kw_only=True, slots=True)
class RaggedFormat:
    """The format of ragged keys, whose rows differ in length.

    A padded key is a tensor `[rows, longest, ...]`, and its lengths come as int64 `[rows]` under
    `KEY.lengths`. An unpadded key is a tensor `[sum of lengths, ...]`, with the same lengths.

    Args:
        padded: Whether to pad rows to the longest of their batch. If not, their values are
            concatenated.
        pad_value: The number that rows are padded with, for all keys, or a mapping of key to
            number, with 0 for keys that it does not name. Must fit the key's dtype.
        pad_left: Whether to pad on the left.

    Raises:
        ConfigurationError: An argument has the wrong type. A pad value that does not fit its key's
            dtype raises MergeError when the streams are opened.
    """

    padded: bool = True
    pad_value: PadValue | Mapping[str, PadValue] = 0
    pad_left: bool = False

    def __post_init__(self) -> None:
        check_flag("padded", self.padded)
        check_flag("pad_left", self.pad_left)
        value: PadValue | dict[str, PadValue]
        if isinstance(self.pad_value, Mapping):
            value = {
                check_text("a key in pad_value", key, empty=True): _number(
                    f"pad_value[{key!r}]", each
                )
                for key, each in self.pad_value.items()
            }
        else:
            value = _number("pad_value", self.pad_value)
        object.__setattr__(self, "pad_value", value)

    def value_of(self, key: str) -> PadValue:
        """Return the number with which a key's rows are padded.

        Args:
            key: The key.

        Returns:
            The number.
        """
        return self.pad_value.get(key, 0) if isinstance(self.pad_value, Mapping) else self.pad_value

    def plain(self) -> dict[str, Any]:
        """Return the options as JSON values. NaN and infinities become "nan", "inf" and "-inf".

        Returns:
            Option -> value.
        """
        values = self.pad_value
        plain = (
            {key: _plain(each) for key, each in sorted(values.items())}
            if isinstance(values, Mapping)
            else _plain(values)
        )
        return {"padded": self.padded, "pad_value": plain, "pad_left": self.pad_left}

    def check_pad_values(self, dtypes: Mapping[str, str], keys: Sequence[str]) -> None:
        """Check that every pad value fits its key's dtype, and that every named key is ragged.

        Args:
            dtypes: Ragged key -> dtype.
            keys: All keys.

        Raises:
            MergeError: A value does not fit, or a named key is not ragged or does not exist.
        """
        if not self.padded:
            return
        for key in self.pad_value if isinstance(self.pad_value, Mapping) else ():
            if key not in dtypes:
                what = "is not ragged" if key in keys else "no teacher has"
                ragged = ", ".join(map(repr, dtypes)) or "none"
                raise MergeError(
                    f"pad_value names key {key!r}, which {what}; the ragged keys are {ragged}"
                )
        for key, dtype in dtypes.items():
            value = self.value_of(key)
            if value and not _fits(value, dtype):
                raise MergeError(
                    f"key {key!r} is {dtype}, which cannot hold the pad value {value!r}; choose "
                    f"one that fits, such as RaggedFormat(pad_value={{{key!r}: 0}})"
                )


def _number(name: str, value: Any) -> PadValue:
    """Convert a number of any library to Python's type."""
    if isinstance(value, (np.ndarray, torch.Tensor, np.generic)) and value.ndim == 0:
        value = value.item()
    if isinstance(value, (bool, int, float)):
        return value
    raise ConfigurationError(
        f"{name} is {value!r}; it must be a number, or a mapping of keys to numbers"
    )


def _plain(value: PadValue) -> PadValue | str:
    return value if math.isfinite(value) else str(float(value))


def _fits(value: PadValue, dtype: str) -> bool:
    """Whether a dtype can hold a value, rounded no more than the dtype rounds."""
    kind, element_dtype = DTYPES[dtype].kind, torch_dtype(dtype)
    if kind == "opaque":
        return False
    low, high = dtype_range(element_dtype)
    if kind in ("bool", "int"):
        return math.isfinite(value) and value == int(value) and low <= value <= high
    if math.isfinite(value):
        return low <= value <= high
    element = float(_element(value, element_dtype).to(torch.complex128).real.item())
    return math.isnan(element) if math.isnan(value) else element == value


def _element(value: PadValue, dtype: torch.dtype) -> torch.Tensor:
    """A tensor `[1]` of a value."""
    if dtype == torch.uint64:
        return torch.from_numpy(np.array([int(value)], np.uint64))
    return torch.tensor([value]).to(dtype)


def pad_rows(
    values: torch.Tensor, lengths: torch.Tensor, value: PadValue, *, left: bool
) -> torch.Tensor:
    """Pad concatenated rows to the longest of them.

    Args:
        values: The elements of all rows, `[sum of lengths, ...]`.
        lengths: The elements of each row, int64 `[rows]`.
        value: The number to pad with; must fit the dtype.
        left: Whether to pad on the left.

    Returns:
        A tensor `[rows, longest, ...]` of the same dtype.
    """
    longest = int(lengths.max()) if len(lengths) else 0
    shape = (len(lengths), longest, *values.shape[1:])
    if value:
        out = bit_view(_element(value, values.dtype)).expand(shape).clone().view(values.dtype)
    else:
        out = torch.zeros(shape, dtype=bits_dtype(values.dtype)).view(values.dtype)
    if longest * math.prod(values.shape[1:]) >= _LONG_ROW:
        # A mask of all elements, and the indices that torch makes of it, would take as much memory
        # again as the rows.
        rows, start = bit_view(values), 0
        for row, length in zip(bit_view(out), lengths.tolist(), strict=True):
            row[longest - length if left else 0 : longest if left else length] = rows[
                start : start + length
            ]
            start += length
        return out
    columns = torch.arange(longest)
    used = columns >= longest - lengths[:, None] if left else columns < lengths[:, None]
    bit_view(out)[used] = bit_view(values)
    return out


def concatenate(arrays: Sequence[Array]) -> Array:
    """Concatenate arrays in new memory.

    They are copied as bytes, because numpy is slow with dtypes that are not its own.
    """
    whole = np.empty((sum(map(len, arrays)), *arrays[0].shape[1:]), arrays[0].dtype)
    if whole.size:
        np.concatenate([as_bytes(array) for array in arrays], out=as_bytes(whole))
    return whole


def joined(pieces: Sequence[Column]) -> Column:
    """Return the rows of a column that came in pieces. One that is not ragged comes in one.

    Args:
        pieces: The pieces, in order.
    """
    ragged = [piece for piece in pieces if isinstance(piece, Ragged)]
    if not ragged:
        (dense,) = pieces
        return dense
    return Ragged(
        np.concatenate([piece.values for piece in ragged]),
        np.concatenate([piece.lengths for piece in ragged]),
    )
