"""The calculation of strategies that take one teacher after the other, and its dtypes.

Values are decoded first and accumulated in float32 or wider: float64 for float64, int64 for
integers, and for complex dtypes the complex dtype whose parts are at least float32. Results have
the promoted dtype of the inputs. The mean of integers is a float, which is decided from the dtypes,
never from the data. A result that does not fit its dtype is an error. A result that fits is right
even if an intermediate value overflows. Knows nothing of rows in files, chunks or batches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tutelage.consumers.stages.overflow import (
    first_beyond,
    first_beyond_int64,
    first_inexact,
    is_finite,
    recompute_overflowed,
)
from tutelage.consumers.stages.strategies import Strategy
from tutelage.consumers.stages.torch_view import dtype_name
from tutelage.schemas.dtypes import DTYPES
from tutelage.schemas.errors import MergeError


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
    if strategy.rule.averages:
        # The sum of large integers may not fit 64 bits although their mean does.
        dtype = torch.float64 if not (dtype.is_floating_point or dtype.is_complex) else dtype
    if dtype.is_complex:
        return torch.complex128 if dtype == torch.complex128 else torch.complex64
    if dtype.is_floating_point:
        return torch.float64 if dtype == torch.float64 else torch.float32
    return torch.int64


def result_dtype(strategy: Strategy, dtype: torch.dtype) -> torch.dtype:
    """The dtype of the result for inputs of a promoted dtype."""
    if strategy.rule.averages and not (dtype.is_floating_point or dtype.is_complex):
        return torch.float64 if dtype.itemsize >= 4 else torch.float32
    if strategy.rule.adds and dtype == torch.bool:
        return torch.int64
    return dtype


def check_dtypes(key: str, strategy: Strategy, dtypes: Sequence[str]) -> None:
    """Check that a strategy can be calculated for the teachers' dtypes.

    Raises:
        MergeError: It cannot.
    """
    rule = strategy.rule
    if rule.takes_any:
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
        if (opaque and rule.fold is not None) or (kind == "complex" and rule.orders):
            raise MergeError(
                f"key {key!r}: {strategy.name} cannot be calculated for {name}; use first or "
                "stack, or a function"
            )


def fold(strategy: Strategy, total: torch.Tensor, values: Sequence[torch.Tensor]) -> None:
    """Take all teachers' values into a total, one teacher after the other.

    Args:
        strategy: A strategy that folds.
        total: The first teacher's values in the accumulator's dtype, `[rows, *inner]`; changed in
            place.
        values: Each teacher's values, of the same shape.
    """
    take = strategy.rule.fold
    assert take is not None, "the strategy folds"
    weights = strategy.weights or (1.0,) * len(values)
    if strategy.rule.weighted:
        total.mul_(weights[0])
    for each, weight in zip(values[1:], weights[1:], strict=True):
        take(total, each.to(total.dtype), weight)


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
    if strategy.rule.averages:
        total.div_(divisor)
    unfit = None
    if not strategy.rule.adds:
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
    if strategy.rule.adds and not strategy.rule.averages:
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
    if strategy.is_mean or not strategy.rule.adds:
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
