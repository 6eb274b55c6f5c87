"""Merge strategies: what each needs, which dtype its result has, and how it is calculated.

Values are decoded first and accumulated in float32 or wider: float64 for float64, int64 for
integers, and for complex dtypes the complex dtype whose parts are at least float32. Results have
the promoted dtype of the inputs. The mean of integers is a float, which is decided from the dtypes,
never from the data. A result that does not fit its dtype is an error. A result that fits is right
even if an intermediate value overflows. Knows nothing of rows in files, chunks or batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tutelage.consumers.stages.overflow import (
    first_beyond,
    first_beyond_int64,
    first_inexact,
    is_finite,
    recompute_overflowed,
)
from tutelage.consumers.stages.torch_view import dtype_name
from tutelage.schemas.dtypes import DTYPES
from tutelage.schemas.errors import MergeError

STRATEGIES = ("sum", "mean", "weighted_mean", "max", "min", "stack", "concat", "first")

#: A strategy by name ("mean", "weighted_mean:0.7,0.3"), or a function from the teachers' tensors,
#: each `[rows, ...]`, to one tensor `[rows, ...]`.
MergeStrategy = str | Callable[[Sequence[torch.Tensor]], torch.Tensor]

# Weights outside this range are scaled, because values are added up in float32, which has a smaller
# range than the weights, which are doubles.
_WEIGHT_RANGE = (2.0**-32, 2.0**32)
# If the sum of the weights is a smaller fraction of the largest weight, it is a rounding error.
_LEAST_FRACTION = 2.0**-60


@dataclass(frozen=True, kw_only=True, slots=True)
class Strategy:
    """A parsed strategy.

    Args:
        name: Its name; `"callable"` for a function.
        weights: One per teacher; empty unless the strategy has weights.
        function: The function, if it is one.
    """

    name: str
    weights: tuple[float, ...] = ()
    function: Callable[[Sequence[torch.Tensor]], torch.Tensor] | None = None

    @property
    def elementwise(self) -> bool:
        """Whether inputs and result have the same shape."""
        return self.name in ("sum", "mean", "weighted_mean", "max", "min")

    @property
    def adds(self) -> bool:
        """Whether it adds values up. Other strategies choose among the values."""
        return self.name in ("sum", "mean", "weighted_mean")

    @property
    def is_mean(self) -> bool:
        """Whether the result lies between the smallest and the largest value."""
        return self.name == "mean" or (self.name == "weighted_mean" and min(self.weights) >= 0)

    def divisor(self, teachers: int) -> float:
        """The number by which the total of this many teachers is divided."""
        if self.name == "weighted_mean":
            return math.fsum(self.weights)
        return teachers if self.name == "mean" else 1


def parse_strategy(key: str, strategy: MergeStrategy) -> Strategy:
    """Parse a strategy.

    Args:
        key: The key that is merged with it, for messages.
        strategy: A name, with weights if it needs them, or a function.

    Raises:
        MergeError: There is no such strategy, or its weights cannot be used.
    """
    if callable(strategy):
        return Strategy(name="callable", function=strategy)
    name, _, arguments = strategy.partition(":") if isinstance(strategy, str) else ("", "", "")
    if name not in STRATEGIES or (bool(arguments) != (name == "weighted_mean")):
        raise MergeError(
            f"key {key!r}: {strategy!r} is no merge strategy; use {', '.join(STRATEGIES)} "
            "(weights as 'weighted_mean:0.7,0.3'), or a function"
        )
    return Strategy(name=name, weights=_parse_weights(key, arguments) if arguments else ())


def _parse_weights(key: str, arguments: str) -> tuple[float, ...]:
    """Parse weights, and scale them into the range of float32."""
    try:
        weights = tuple(float(weight) for weight in arguments.split(","))
    except ValueError as error:
        raise MergeError(
            f"key {key!r}: the weights {arguments!r} are not numbers separated by commas"
        ) from error
    if not all(map(math.isfinite, weights)):
        raise MergeError(f"key {key!r}: the weights {arguments!r} must be finite numbers")
    largest = max(map(abs, weights))
    if not largest > 0 or not _WEIGHT_RANGE[0] <= largest <= _WEIGHT_RANGE[1]:
        # Scaling by a power of two is exact.
        exponent = math.frexp(largest)[1]
        weights = tuple(math.ldexp(weight, -exponent) for weight in weights)
    if not math.fsum(weights) > 0:
        raise MergeError(f"key {key!r}: the weights {arguments!r} do not add up to more than 0")
    if math.fsum(weights) < _LEAST_FRACTION * max(map(abs, weights)):
        raise MergeError(
            f"key {key!r}: the weights {arguments!r} cancel out but for a rounding error; choose "
            "weights that add up to about 1"
        )
    return weights


def promoted_dtype(dtypes: Sequence[torch.dtype]) -> torch.dtype:
    """Return the common dtype of several dtypes, by torch's rule.

    Next to another dtype, float8 counts as float32.

    Raises:
        MergeError: Torch has no common dtype for them.
    """
    result = dtypes[0]
    for other in dtypes[1:]:
        if other != result:
            pair = [torch.float32 if "float8" in str(one) else one for one in (result, other)]
            try:
                result = torch.promote_types(*pair)
            except RuntimeError as error:
                raise MergeError(
                    f"{result} and {other} have no common dtype in torch; have the teachers write "
                    "the same"
                ) from error
    return result


def accumulator_dtype(strategy: Strategy, dtype: torch.dtype) -> torch.dtype:
    """The dtype in which values of a promoted dtype are accumulated."""
    if strategy.name in ("mean", "weighted_mean"):
        # The sum of large integers may not fit 64 bits although their mean does.
        dtype = torch.float64 if not (dtype.is_floating_point or dtype.is_complex) else dtype
    if dtype.is_complex:
        return torch.complex128 if dtype == torch.complex128 else torch.complex64
    if dtype.is_floating_point:
        return torch.float64 if dtype == torch.float64 else torch.float32
    return torch.int64


def result_dtype(strategy: Strategy, dtype: torch.dtype) -> torch.dtype:
    """The dtype of the result for inputs of a promoted dtype."""
    if strategy.name in ("mean", "weighted_mean") and not (
        dtype.is_floating_point or dtype.is_complex
    ):
        return torch.float64 if dtype.itemsize >= 4 else torch.float32
    if strategy.name == "sum" and dtype == torch.bool:
        return torch.int64
    return dtype


def check_dtypes(key: str, strategy: Strategy, dtypes: Sequence[str]) -> None:
    """Check that a strategy can be calculated for the teachers' dtypes.

    Raises:
        MergeError: It cannot.
    """
    if strategy.name in ("first", "callable"):
        return
    mixed = len(set(dtypes)) > 1
    for name in dtypes:
        kind = DTYPES[name].kind
        opaque = kind == "opaque" or name == "uint64"
        if opaque and mixed:
            others = " and ".join(sorted(set(dtypes) - {name}))
            raise MergeError(
                f"key {key!r}: {strategy.name} cannot be calculated for {name} beside {others}: "
                "they have no common dtype; have the teachers write the same, or use first or a "
                "function"
            )
        if (opaque and strategy.elementwise) or (
            kind == "complex" and strategy.name in ("max", "min")
        ):
            raise MergeError(
                f"key {key!r}: {strategy.name} cannot be calculated for {name}; use first or "
                "stack, or a function"
            )


def begin(strategy: Strategy, total: torch.Tensor) -> None:
    """Turn the first teacher's values into the total, in place."""
    if strategy.name == "weighted_mean":
        total.mul_(strategy.weights[0])


def accumulate(strategy: Strategy, total: torch.Tensor, values: torch.Tensor, teacher: int) -> None:
    """Add another teacher's values to the total, in place."""
    if strategy.name in ("sum", "mean"):
        total.add_(values)
    elif strategy.name == "weighted_mean":
        total.add_(values, alpha=strategy.weights[teacher])
    elif strategy.name == "max":
        torch.maximum(total, values, out=total)
    else:
        torch.minimum(total, values, out=total)


def finish(
    strategy: Strategy,
    total: torch.Tensor,
    values: Sequence[torch.Tensor],
    dtype: torch.dtype,
    *,
    key: str,
    first_row: int | None,
) -> torch.Tensor:
    """Turn the total into the result.

    Args:
        strategy: The strategy.
        total: The accumulated values, `[rows, *inner]`; changed in place.
        values: Each teacher's values, of the same shape.
        dtype: The result's dtype.
        key: The key, for messages.
        first_row: The number of the first row in its pass, for messages; None for the elements of
            ragged rows.

    Returns:
        The result, `[rows, *inner]`, in `dtype`.

    Raises:
        MergeError: A result of finite values does not fit its dtype.
    """
    divisor = strategy.divisor(len(values))
    if strategy.name in ("mean", "weighted_mean"):
        total.div_(divisor)
    unfit = None
    if not strategy.adds:
        # The result must be one of the values.
        check_exact(strategy, values, dtype, key=key, first_row=first_row)
    elif total.dtype == torch.int64:
        unfit = first_beyond_int64(values)
    elif not is_finite(total):
        weights = strategy.weights or (1.0,) * len(values)
        unfit = recompute_overflowed(total, values, weights, divisor, within=strategy.is_mean)
    if unfit is None and total.dtype != dtype:
        unfit = first_beyond(total, dtype) if _may_not_fit(strategy, values, dtype) else None
        total = total.to(dtype) if unfit is None else total
    if unfit is not None:
        raise MergeError(
            f"{_where(key, total, unfit, first_row)}: the {strategy.name} of {len(values)} "
            f"teachers does not fit {dtype_name(dtype)}; {_overflow_advice(strategy, dtype)}"
        )
    return total


def _overflow_advice(strategy: Strategy, dtype: torch.dtype) -> str:
    """What to do about a result that does not fit its dtype."""
    if strategy.name == "sum":
        advice = "merge by mean"
    elif strategy.weights:
        advice = "use weights of at least 0"
    else:
        advice = "merge by first"
    if dtype in (torch.float64, torch.complex128):
        return advice
    return f"{advice}, or have the teachers write a wider dtype"


def check_exact(
    strategy: Strategy,
    values: Sequence[torch.Tensor],
    dtype: torch.dtype,
    *,
    key: str,
    first_row: int | None,
) -> None:
    """Check that the result's dtype holds every value exactly.

    Integers next to floats may not be held exactly.

    Args:
        strategy: The strategy.
        values: Each teacher's values, `[rows, *inner]`.
        dtype: The result's dtype.
        key: The key, for messages.
        first_row: The number of the first row in its pass, for messages; None for the elements of
            ragged rows.

    Raises:
        MergeError: A value would change.
    """
    for each in values:
        index = first_inexact(each, dtype)
        if index is not None:
            raise MergeError(
                f"{_where(key, each, index, first_row)}: {each.reshape(-1)[index].item()} of "
                f"{dtype_name(each.dtype)} cannot be held by {dtype_name(dtype)}, the common dtype "
                f"of the teachers, so {strategy.name} would change it; have the teachers write the "
                "same dtype"
            )


def _may_not_fit(strategy: Strategy, values: Sequence[torch.Tensor], dtype: torch.dtype) -> bool:
    """Whether the result may lie outside the range of the promoted dtype."""
    if strategy.is_mean or not strategy.adds:
        # A promoted dtype holds all floats that were promoted to it, but not all integers.
        return any(
            each.dtype != dtype and not each.dtype.is_floating_point and not each.dtype.is_complex
            for each in values
        )
    return True


def _where(key: str, values: torch.Tensor, index: int, first_row: int | None) -> str:
    """The key and row of an element, in words."""
    row = index // max(1, values.numel() // max(1, len(values)))
    return f"key {key!r}" if first_row is None else f"key {key!r}, row {first_row + row}"
