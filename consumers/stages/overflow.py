"""Finds merged totals that overflowed, and calculates them again if the result fits.

Merging adds values in the accumulator's dtype, which is fast and almost always enough. This module
checks the total afterwards. It uses flat indices and knows no keys or rows. No I/O, threads or
clocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import numpy as np
import torch

# The number of elements checked at once, which bounds the memory that a check takes.
_SLICE = 1 << 16
_HALF_WORD = 32


def is_finite(total: torch.Tensor) -> bool:
    """Return whether all elements are finite."""
    if not total.numel():
        return True
    flat = _parts(total)
    # A sum costs half as much as the extremes. It may overflow although every element is finite;
    # then the extremes decide.
    if math.isfinite(flat.sum().item()):
        return True
    low, high = torch.aminmax(flat)
    return math.isfinite(low.item()) and math.isfinite(high.item())


def recompute_overflowed(
    total: torch.Tensor,
    values: Sequence[torch.Tensor],
    weights: Sequence[float],
    divisor: float,
    *,
    within: bool,
) -> int | None:
    """Correct the elements of a total that are not finite although the result is.

    These elements are calculated from values scaled by a power of two, so that no intermediate
    value overflows. Where a value is NaN or infinite, torch's total stays as it is.

    Args:
        total: `sum(weights * values) / divisor` in the accumulator's dtype; changed in place.
        values: The tensors that were added up, each of the total's shape and of any dtype that
            converts to the total's.
        weights: One per tensor.
        divisor: A number above 0.
        within: Whether the result lies between the smallest and the largest value, as a mean does.

    Returns:
        The flat index of the first element whose values are finite but whose result does not fit
        the total's dtype; None if all fit.
    """
    parts = 2 if total.dtype.is_complex else 1
    flat = _parts(total)
    columns = [column.reshape(-1) for column in values]
    scale = 2.0 ** -max(0, math.frexp(math.fsum(map(abs, weights)))[1] + 1)
    largest = torch.finfo(flat.dtype).max * scale
    for start in range(0, len(flat), _SLICE):
        piece = flat[start : start + _SLICE]
        # Numpy finds and replaces elements many times faster than torch does on the CPU.
        overflowed = ~np.isfinite(piece.numpy())
        if not overflowed.any():
            continue
        stop = start + len(piece)
        parts_of_values = [
            _parts(column[start // parts : stop // parts].to(total.dtype)) for column in columns
        ]
        scaled = _weighted_sum(parts_of_values, [weight * scale for weight in weights]).div_(
            divisor
        )
        fits = np.isfinite(scaled.numpy())
        if parts == 2:
            # Torch's complex arithmetic mixes the parts, so a number is replaced only if both of
            # its parts can be calculated again.
            overflowed = np.repeat(overflowed.reshape(-1, 2).any(1), 2)
            fits = np.repeat(fits.reshape(-1, 2).all(1), 2)
        overflowed &= fits
        if not overflowed.any():
            continue
        if within:
            # A rounding error may move a mean out of its dtype's range. The mean of equal values,
            # as in masks, must be that value.
            least = reduce(torch.minimum, parts_of_values).mul(scale)
            most = reduce(torch.maximum, parts_of_values).mul(scale)
            torch.minimum(torch.maximum(scaled, least, out=scaled), most, out=scaled)
        elif (too_large := overflowed & (np.abs(scaled.numpy()) > largest)).any():
            return (start + int(np.argmax(too_large))) // parts
        np.putmask(piece.numpy(), overflowed, scaled.div_(scale).numpy())
    return None


def _weighted_sum(values: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """The sum of tensors of one shape and dtype, each times its weight."""
    total = torch.zeros_like(values[0])
    for weight, each in zip(weights, values, strict=True):
        total.add_(each, alpha=weight)
    return total


def first_beyond_int64(values: Sequence[torch.Tensor]) -> int | None:
    """Find the first element at which a sum of integers does not fit int64.

    Args:
        values: The tensors that are added, all of one shape.

    Returns:
        Its flat index; None if all sums fit.
    """
    if not values[0].numel():
        return None
    low = high = 0
    for column in values:
        # Sums of narrower integers fit 64 bits for any number of teachers.
        if column.dtype == torch.int64:
            least, most = torch.aminmax(column)
            low, high = low + int(least), high + int(most)
    narrow = len(values) << _HALF_WORD
    if low - narrow >= -(2**63) and high + narrow < 2**63:
        return None
    columns = [column.reshape(-1) for column in values]
    for start in range(0, len(columns[0]), _SLICE):
        pieces = [column[start : start + _SLICE].to(torch.int64) for column in columns]
        # The upper and lower halves of the words are added separately, so neither sum overflows.
        lower = torch.stack([piece & (2**_HALF_WORD - 1) for piece in pieces]).sum(0)
        upper = torch.stack([piece >> _HALF_WORD for piece in pieces]).sum(0) + (
            lower >> _HALF_WORD
        )
        unfit = ((upper < -(2 ** (_HALF_WORD - 1))) | (upper >= 2 ** (_HALF_WORD - 1))).nonzero()
        if len(unfit):
            return start + int(unfit[0])
    return None


def first_beyond(total: torch.Tensor, dtype: torch.dtype) -> int | None:
    """Find the first finite element that does not fit the range of a narrower dtype.

    Torch's conversion does not report it. Depending on the dtype it returns infinity, NaN or the
    largest number, or wraps around.

    Args:
        total: The tensor to convert.
        dtype: The dtype to convert it to.

    Returns:
        The element's flat index; None if all fit.
    """
    flat = _parts(total)
    if not len(flat):
        return None
    low, high = dtype_range(dtype)
    least, most = (bound.item() for bound in torch.aminmax(flat))
    if low <= least and most <= high:
        return None
    for start in range(0, len(flat), _SLICE):
        piece = flat[start : start + _SLICE]
        unfit = (((piece < low) | (piece > high)) & piece.isfinite()).nonzero()
        if len(unfit):
            return (start + int(unfit[0])) // (2 if total.dtype.is_complex else 1)
    return None


def first_inexact(values: torch.Tensor, dtype: torch.dtype) -> int | None:
    """Find the first integer that a floating-point dtype cannot hold exactly.

    Floats need no check: they are only promoted to wider floats, which hold all of them.

    Args:
        values: The tensor to convert.
        dtype: The dtype to convert it to.

    Returns:
        The integer's flat index; None if all are held exactly.
    """
    if values.dtype == torch.bool or values.dtype.is_floating_point or values.dtype.is_complex:
        return None
    if not (dtype.is_floating_point or dtype.is_complex) or not values.numel():
        return None
    flat, real = values.reshape(-1), dtype.to_real() if dtype.is_complex else dtype
    exact = round(2 / torch.finfo(real).eps)
    for start in range(0, len(flat), _SLICE):
        piece = flat[start : start + _SLICE].to(torch.int64)
        if (
            int(piece.amin()) >= -exact
            and int(piece.amax()) <= exact
            and exact <= torch.finfo(real).max
        ):
            continue
        again = piece.to(real).double()
        # A double does not hold all 64-bit integers either, and one beyond their range cannot be
        # converted back.
        unfit = ((again < -(2.0**63)) | (again >= 2.0**63)) | ~again.isfinite()
        unfit |= again.masked_fill(unfit, 0).to(torch.int64) != piece
        if bool(unfit.any()):
            return start + int(unfit.nonzero()[0])
    return None


def dtype_range(dtype: torch.dtype) -> tuple[float, float]:
    """The smallest and largest number that fit a dtype. For floats, numbers that round to them fit.

    For complex dtypes it is the range of each part.
    """
    if dtype == torch.bool:
        return 0, 1
    if not (dtype.is_floating_point or dtype.is_complex):
        return torch.iinfo(dtype).min, torch.iinfo(dtype).max
    info = torch.finfo(dtype)
    if dtype == torch.float64 or dtype == torch.complex128:
        return info.min, info.max
    half_a_step = info.eps * 2.0 ** (math.frexp(info.max)[1] - 1) / 2
    # A tie rounds away from the largest number, so the limit is one step of the accumulator below
    # the tie.
    in_double = dtype in (torch.float32, torch.complex64)
    most = (info.max + half_a_step) * (1 - 2.0 ** (-52 if in_double else -23))
    return (0.0 if info.min > 0 else -most), most


def _parts(tensor: torch.Tensor) -> torch.Tensor:
    """The elements as a flat tensor; for complex dtypes the real and the imaginary parts."""
    return (torch.view_as_real(tensor) if tensor.dtype.is_complex else tensor).reshape(-1)
