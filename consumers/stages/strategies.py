"""How a key that several teachers have becomes one: what a strategy needs, promises and calculates.

Values are decoded first and accumulated in float32 or wider (float64 for float64, int64 for integers, the complex dtype of twice
the parts' width); results have the promoted dtype of the inputs. The mean of integers is a float, decided here from the dtypes, never
from the data. A result that does not fit its dtype is an error; an overflow on the way to one that fits does no harm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tutelage.consumers.stages.overflow import (
    beyond,
    beyond_int64,
    calculated_again,
    changed_by,
    is_finite,
)
from tutelage.schemas.dtypes import DTYPES
from tutelage.schemas.errors import MergeError

STRATEGIES = ("sum", "mean", "weighted_mean", "max", "min", "stack", "concat", "first")

#: A strategy by name ("mean", "weighted_mean:0.7,0.3"), or a function of the teachers' tensors, each [rows, ...], to one [rows, ...].
MergeStrategy = str | Callable[[Sequence[torch.Tensor]], torch.Tensor]

# Weights outside this range are scaled, since float32, in which values are added up, does not hold all that a float does.
_WEIGHTS = (2.0**-32, 2.0**32)
# Weights that cancel out beyond this share of the largest leave nothing but rounding errors.
_LEAST_SHARE = 2.0**-60


@dataclass(frozen=True, kw_only=True, slots=True)
class Strategy:
    """A strategy that was understood: its name ("callable" for a function), weights and function."""

    name: str
    weights: tuple[float, ...] = ()
    function: Callable[[Sequence[torch.Tensor]], torch.Tensor] | None = None

    @property
    def elementwise(self) -> bool:
        """Whether it needs tensors of the same shape and gives one of that shape."""
        return self.name in ("sum", "mean", "weighted_mean", "max", "min")

    @property
    def adds(self) -> bool:
        """Whether it adds values up, rather than choosing among them."""
        return self.name in ("sum", "mean", "weighted_mean")

    @property
    def is_mean(self) -> bool:
        """Whether the result lies between the smallest and the largest value."""
        return self.name == "mean" or (self.name == "weighted_mean" and min(self.weights) >= 0)

    def divisor(self, teachers: int) -> float:
        """What the total of so many teachers is divided by."""
        if self.name == "weighted_mean":
            return math.fsum(self.weights)
        return teachers if self.name == "mean" else 1


def parsed(key: str, strategy: MergeStrategy) -> Strategy:
    """The strategy asked for; MergeError naming the key if there is none such."""
    if callable(strategy):
        return Strategy(name="callable", function=strategy)
    name, _, arguments = strategy.partition(":") if isinstance(strategy, str) else ("", "", "")
    if name not in STRATEGIES or (bool(arguments) != (name == "weighted_mean")):
        raise MergeError(
            f"key {key!r}: {strategy!r} is no merge strategy; use {', '.join(STRATEGIES)} "
            "(weights as 'weighted_mean:0.7,0.3'), or a function"
        )
    return Strategy(name=name, weights=_weights(key, arguments) if arguments else ())


def _weights(key: str, arguments: str) -> tuple[float, ...]:
    """Weights as numbers that can be calculated with; MergeError if there are none such."""
    try:
        weights = tuple(float(weight) for weight in arguments.split(","))
    except ValueError as error:
        raise MergeError(
            f"key {key!r}: the weights {arguments!r} are not numbers separated by commas"
        ) from error
    if not all(map(math.isfinite, weights)):
        raise MergeError(f"key {key!r}: the weights {arguments!r} must be finite numbers")
    largest = max(map(abs, weights))
    if not largest > 0 or not _WEIGHTS[0] <= largest <= _WEIGHTS[1]:
        # A power of two changes no digit.
        exponent = math.frexp(largest)[1]
        weights = tuple(math.ldexp(weight, -exponent) for weight in weights)
    if not math.fsum(weights) > 0:
        raise MergeError(f"key {key!r}: the weights {arguments!r} do not add up to more than 0")
    if math.fsum(weights) < _LEAST_SHARE * max(map(abs, weights)):
        raise MergeError(
            f"key {key!r}: the weights {arguments!r} cancel out but for a rounding error; choose weights that add up to about 1"
        )
    return weights


def promoted(dtypes: Sequence[torch.dtype]) -> torch.dtype:
    """The dtype that holds values of all of these; torch's rule, with float8 counted as float32 beside another dtype."""
    result = dtypes[0]
    for other in dtypes[1:]:
        if other != result:
            pair = [torch.float32 if "float8" in str(one) else one for one in (result, other)]
            try:
                result = torch.promote_types(*pair)
            except RuntimeError as error:
                raise MergeError(
                    f"{result} and {other} have no common dtype in torch; have the teachers write the same"
                ) from error
    return result


def accumulator(strategy: Strategy, dtype: torch.dtype) -> torch.dtype:
    """What values promoted to a dtype are added up in."""
    if strategy.name in ("mean", "weighted_mean"):
        # Integers: in double, because the sum of large ones may not fit 64 bits though their mean does.
        dtype = torch.float64 if not (dtype.is_floating_point or dtype.is_complex) else dtype
    if dtype.is_complex:
        return torch.complex128 if dtype == torch.complex128 else torch.complex64
    if dtype.is_floating_point:
        return torch.float64 if dtype == torch.float64 else torch.float32
    return torch.int64


def result_dtype(strategy: Strategy, dtype: torch.dtype) -> torch.dtype:
    """The dtype of the result, for inputs promoted to `dtype`."""
    if strategy.name in ("mean", "weighted_mean") and not (
        dtype.is_floating_point or dtype.is_complex
    ):
        return torch.float64 if dtype.itemsize >= 4 else torch.float32
    if strategy.name == "sum" and dtype == torch.bool:
        return torch.int64
    return dtype


def refuse_incalculable(key: str, strategy: Strategy, dtypes: Sequence[str]) -> None:
    """MergeError if the strategy cannot be calculated for these dtypes."""
    if strategy.name in ("first", "callable"):
        return
    mixed = len(set(dtypes)) > 1
    for name in dtypes:
        kind = DTYPES[name].kind
        opaque = kind == "opaque" or name == "uint64"
        if opaque and mixed:
            raise MergeError(
                f"key {key!r}: {strategy.name} cannot be calculated for {name} beside {' and '.join(sorted(set(dtypes) - {name}))}: they "
                "have no common dtype; have the teachers write the same, or use first or a function"
            )
        if (opaque and strategy.elementwise) or (
            kind == "complex" and strategy.name in ("max", "min")
        ):
            raise MergeError(
                f"key {key!r}: {strategy.name} cannot be calculated for {name}; use first or stack, or a function"
            )


def accumulate(strategy: Strategy, total: torch.Tensor, values: torch.Tensor, teacher: int) -> None:
    """Add one more teacher's values to the total, in place; the first teacher's begin it (`begin`)."""
    if strategy.name in ("sum", "mean"):
        total.add_(values)
    elif strategy.name == "weighted_mean":
        total.add_(values, alpha=strategy.weights[teacher])
    elif strategy.name == "max":
        torch.maximum(total, values, out=total)
    else:
        torch.minimum(total, values, out=total)


def begin(strategy: Strategy, total: torch.Tensor) -> None:
    """Make the first teacher's values the total."""
    if strategy.name == "weighted_mean":
        total.mul_(strategy.weights[0])


def finish(
    strategy: Strategy,
    total: torch.Tensor,
    values: Sequence[torch.Tensor],
    dtype: torch.dtype,
    *,
    key: str,
    first_row: int | None,
) -> torch.Tensor:
    """The result in its dtype.

    Args:
        strategy: What was calculated.
        total: The accumulated values, [rows, *inner]; changed in place.
        values: Each teacher's, of the same shape.
        dtype: The result's.
        key: The key, for errors.
        first_row: The first row's number in its pass, for errors; None where the rows are those of ragged values.

    Raises:
        MergeError: A result of finite values does not fit its dtype: a wrong number is never given.
    """
    divisor = strategy.divisor(len(values))
    if strategy.name in ("mean", "weighted_mean"):
        total.div_(divisor)
    unfit = None
    if not strategy.adds:
        # What is chosen must be one of the values.
        refuse_inexact(strategy, values, dtype, key=key, first_row=first_row)
    elif total.dtype == torch.int64:
        unfit = beyond_int64(values)
    elif not is_finite(total):
        weights = strategy.weights or (1.0,) * len(values)
        unfit = calculated_again(total, values, weights, divisor, within=strategy.is_mean)
    if unfit is None and total.dtype != dtype:
        unfit = beyond(total, dtype) if _may_leave(strategy, values, dtype) else None
        total = total.to(dtype) if unfit is None else total
    if unfit is not None:
        what = f"the {strategy.name} of {len(values)} teachers does not fit {_said(dtype)}"
        advice = (
            "merge by mean"
            if strategy.name == "sum"
            else "use weights of at least 0"
            if strategy.weights
            else "merge by first"
        )
        wider = (
            ""
            if dtype in (torch.float64, torch.complex128)
            else ", or have the teachers write a wider dtype"
        )
        raise MergeError(f"{_place(key, total, unfit, first_row)}: {what}; {advice}{wider}")
    return total


def refuse_inexact(
    strategy: Strategy,
    values: Sequence[torch.Tensor],
    dtype: torch.dtype,
    *,
    key: str,
    first_row: int | None,
) -> None:
    """MergeError if a value is another one in the dtype of the result: integers beside floats can be."""
    for each in values:
        index = changed_by(each, dtype)
        if index is not None:
            raise MergeError(
                f"{_place(key, each, index, first_row)}: {each.reshape(-1)[index].item()} of {_said(each.dtype)} cannot be held by {_said(dtype)}, "
                f"the common dtype of the teachers, so {strategy.name} would change it; have the teachers write the same dtype"
            )


def _may_leave(strategy: Strategy, values: Sequence[torch.Tensor], dtype: torch.dtype) -> bool:
    """Whether the result may lie outside the dtype, to which all values were promoted."""
    if strategy.is_mean or not strategy.adds:
        # A promoted dtype has room for the floats that were promoted to it, but not for all integers.
        return any(
            each.dtype != dtype and not each.dtype.is_floating_point and not each.dtype.is_complex
            for each in values
        )
    return True


def _place(key: str, values: torch.Tensor, index: int, first_row: int | None) -> str:
    """A key, and the row of it that an element lies in."""
    row = index // max(1, values.numel() // max(1, len(values)))
    return f"key {key!r}" if first_row is None else f"key {key!r}, row {first_row + row}"


def _said(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def torch_dtype(name: str) -> torch.dtype:
    """Torch's dtype of that name."""
    dtype: Any = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise MergeError(f"this torch ({torch.__version__}) has no dtype {name}; a newer one has")
    return dtype
