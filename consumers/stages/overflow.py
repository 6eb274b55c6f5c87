"""Totals that left their dtype on the way: calculated again where they fit, and found where they do not.

Merging adds in the accumulator's dtype, which is fast and almost always enough. This module looks at the total afterwards. It goes by
flat index and knows no keys or rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import numpy as np
import torch

# Elements that are looked at together when a total is not finite: bounds the memory of the second calculation.
_SLICE = 1 << 16
_HALF_WORD = 32


def is_finite(total: torch.Tensor) -> bool:
    """Whether all elements are finite."""
    if not total.numel():
        return True
    flat = _parts(total)
    # A sum costs half of what the extremes do. It may overflow although every element is finite; the extremes decide then.
    if math.isfinite(flat.sum().item()):
        return True
    low, high = torch.aminmax(flat)
    return math.isfinite(low.item()) and math.isfinite(high.item())


def calculated_again(
    total: torch.Tensor,
    values: Sequence[torch.Tensor],
    weights: Sequence[float],
    divisor: float,
    *,
    within: bool,
) -> int | None:
    """Correct the elements of a total that are not finite although the result is.

    The elements are calculated from values scaled by a power of two, so that nothing overflows on the way. Where a value is NaN or
    infinite the total stays what torch made of it.

    Args:
        total: sum(weights * values) / divisor in its accumulator's dtype; changed in place.
        values: What was added up, each of the total's shape and of any dtype that converts to the total's.
        weights: One a tensor.
        divisor: Above 0.
        within: Whether the result lies between the smallest and the largest value, as a mean does.

    Returns:
        The flat index of the first element whose values are finite but whose result does not fit the total's dtype; None if all fit.
    """
    parts = 2 if total.dtype.is_complex else 1
    flat = _parts(total)
    columns = [column.reshape(-1) for column in values]
    scale = 2.0 ** -max(0, math.frexp(math.fsum(map(abs, weights)))[1] + 1)
    largest = torch.finfo(flat.dtype).max * scale
    for start in range(0, len(flat), _SLICE):
        piece = flat[start : start + _SLICE]
        # Numpy finds and replaces elements many times faster than torch does on the CPU.
        odd = ~np.isfinite(piece.numpy())
        if not odd.any():
            continue
        stop = start + len(piece)
        parted = [
            _parts(column[start // parts : stop // parts].to(total.dtype)) for column in columns
        ]
        scaled = torch.zeros_like(piece)
        for weight, each in zip(weights, parted, strict=True):
            scaled.add_(each, alpha=weight * scale)
        scaled.div_(divisor)
        whole = np.isfinite(scaled.numpy())
        if parts == 2:
            # Torch's complex arithmetic mixes the parts: a number is calculated again if both of its parts can be.
            odd = np.repeat(odd.reshape(-1, 2).any(1), 2)
            whole = np.repeat(whole.reshape(-1, 2).all(1), 2)
        odd &= whole
        if not odd.any():
            continue
        if within:
            # A rounding error may take a mean out of its dtype, and the mean of equal values, as masks have them, must be that value.
            least, most = (
                reduce(torch.minimum, parted).mul(scale),
                reduce(torch.maximum, parted).mul(scale),
            )
            torch.minimum(torch.maximum(scaled, least, out=scaled), most, out=scaled)
        elif (spilt := odd & (np.abs(scaled.numpy()) > largest)).any():
            return (start + int(np.argmax(spilt))) // parts
        np.putmask(piece.numpy(), odd, scaled.div_(scale).numpy())
    return None


def beyond_int64(values: Sequence[torch.Tensor]) -> int | None:
    """The flat index of the first element at which the sum of integers does not fit int64; None if all fit."""
    if not values[0].numel():
        return None
    low = high = 0
    for column in values:
        # Of narrower integers no number of teachers' sums leaves 64 bits.
        if column.dtype == torch.int64:
            least, most = torch.aminmax(column)
            low, high = low + int(least), high + int(most)
    narrow = len(values) << _HALF_WORD
    if low - narrow >= -(2**63) and high + narrow < 2**63:
        return None
    columns = [column.reshape(-1) for column in values]
    for start in range(0, len(columns[0]), _SLICE):
        pieces = [column[start : start + _SLICE].to(torch.int64) for column in columns]
        # Upper and lower halves of the words apart: neither sum overflows.
        lower = torch.stack([piece & (2**_HALF_WORD - 1) for piece in pieces]).sum(0)
        upper = torch.stack([piece >> _HALF_WORD for piece in pieces]).sum(0) + (
            lower >> _HALF_WORD
        )
        unfit = ((upper < -(2 ** (_HALF_WORD - 1))) | (upper >= 2 ** (_HALF_WORD - 1))).nonzero()
        if len(unfit):
            return start + int(unfit[0])
    return None


def beyond(total: torch.Tensor, dtype: torch.dtype) -> int | None:
    """The flat index of the first finite element of a total that a narrower dtype cannot hold; None if it holds all.

    Torch's own conversion tells nobody: it gives an infinity, NaN, the largest number, or wraps, as the dtype has it.
    """
    flat = _parts(total)
    if not len(flat):
        return None
    low, high = limits(dtype)
    least, most = (bound.item() for bound in torch.aminmax(flat))
    if low <= least and most <= high:
        return None
    for start in range(0, len(flat), _SLICE):
        piece = flat[start : start + _SLICE]
        unfit = (((piece < low) | (piece > high)) & piece.isfinite()).nonzero()
        if len(unfit):
            return (start + int(unfit[0])) // (2 if total.dtype.is_complex else 1)
    return None


def changed_by(values: torch.Tensor, dtype: torch.dtype) -> int | None:
    """The flat index of the first integer that a floating-point dtype cannot hold exactly; None if it holds all.

    Floats are only ever promoted to wider ones, which hold them all.
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
        # In halves, because a double does not hold all integers either, and one beyond them cannot be converted back.
        unfit = ((again < -(2.0**63)) | (again >= 2.0**63)) | ~again.isfinite()
        unfit |= again.masked_fill(unfit, 0).to(torch.int64) != piece
        if bool(unfit.any()):
            return start + int(unfit.nonzero()[0])
    return None


def limits(dtype: torch.dtype) -> tuple[float, float]:
    """What a dtype holds: its smallest and largest number, and of floats what rounds to them."""
    if dtype == torch.bool:
        return 0, 1
    if not (dtype.is_floating_point or dtype.is_complex):
        return torch.iinfo(dtype).min, torch.iinfo(dtype).max
    info = torch.finfo(dtype)
    if dtype == torch.float64 or dtype == torch.complex128:
        return info.min, info.max
    half_a_step = info.eps * 2.0 ** (math.frexp(info.max)[1] - 1) / 2
    # A tie rounds away from the largest number, so this is less by what the accumulator can tell apart.
    in_double = dtype in (torch.float32, torch.complex64)
    most = (info.max + half_a_step) * (1 - 2.0 ** (-52 if in_double else -23))
    return (0.0 if info.min > 0 else -most), most


def _parts(tensor: torch.Tensor) -> torch.Tensor:
    """The elements in a row; of complex ones the real and the imaginary parts."""
    return (torch.view_as_real(tensor) if tensor.dtype.is_complex else tensor).reshape(-1)
