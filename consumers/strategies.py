"""How a key that several teachers have becomes one: what a strategy needs, promises and calculates.

Values are decoded first and accumulated in float32 or wider (float64 for float64, int64 for integers, the complex dtype of twice
the parts' width); results have the promoted dtype of the inputs. The mean of integers is a float, decided here from the dtypes, never
from the data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tutelage.schemas.dtypes import DTYPES
from tutelage.schemas.errors import MergeError

STRATEGIES = ("sum", "mean", "weighted_mean", "max", "min", "stack", "concat", "first")

#: A strategy by name ("mean", "weighted_mean:0.7,0.3"), or a function of the teachers' tensors, each [rows, ...], to one [rows, ...].
MergeStrategy = str | Callable[[Sequence[torch.Tensor]], torch.Tensor]


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


def parsed(key: str, strategy: MergeStrategy) -> Strategy:
    """The strategy asked for; MergeError naming the key if there is none such."""
    if callable(strategy):
        return Strategy(name="callable", function=strategy)
    name, _, arguments = str(strategy).partition(":")
    if name not in STRATEGIES or (bool(arguments) != (name == "weighted_mean")):
        raise MergeError(
            f"key {key!r}: {strategy!r} is no merge strategy; use {', '.join(STRATEGIES)} "
            "(weights as 'weighted_mean:0.7,0.3'), or a function"
        )
    try:
        weights = tuple(float(weight) for weight in arguments.split(",")) if arguments else ()
    except ValueError as error:
        raise MergeError(f"key {key!r}: the weights {arguments!r} are not numbers separated by commas") from error
    if weights and not sum(weights) > 0:
        raise MergeError(f"key {key!r}: the weights {arguments!r} do not add up to more than 0")
    return Strategy(name=name, weights=weights)


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
    if strategy.name in ("mean", "weighted_mean") and not (dtype.is_floating_point or dtype.is_complex):
        return torch.float64 if dtype.itemsize >= 4 else torch.float32
    if strategy.name == "sum" and dtype == torch.bool:
        return torch.int64
    return dtype


def refuse_incalculable(key: str, strategy: Strategy, dtypes: Sequence[str]) -> None:
    """MergeError if the strategy cannot be calculated for these dtypes."""
    for name in dtypes:
        opaque = DTYPES[name].kind == "opaque" or (name == "uint64" and strategy.name != "callable")
        unordered = DTYPES[name].kind == "complex" and strategy.name in ("max", "min")
        if (strategy.name not in ("first", "stack", "concat") and opaque) or unordered or (opaque and len(set(dtypes)) > 1):
            raise MergeError(f"key {key!r}: {strategy.name} cannot be calculated for {name}; use first or stack, or a function")


def accumulate(strategy: Strategy, total: torch.Tensor, values: torch.Tensor, teacher: int) -> None:
    """Add one more teacher's values to the total, in place; the first teacher's begin it (`begin`)."""
    if strategy.name == "sum" and total.dtype == torch.int64:
        _add_exactly(total, values)
    elif strategy.name in ("sum", "mean"):
        total.add_(values)
    elif strategy.name == "weighted_mean":
        total.add_(values, alpha=strategy.weights[teacher])
    elif strategy.name == "max":
        torch.maximum(total, values, out=total)
    else:
        torch.minimum(total, values, out=total)


def _add_exactly(total: torch.Tensor, values: torch.Tensor) -> None:
    before = total.clone()
    total.add_(values)
    # Two's complement: the sum overflowed where its sign differs from both of its parts'.
    if bool((((total ^ before) & (total ^ values)) < 0).any()):
        raise MergeError("a sum of integers does not fit int64; merge by mean, or have the teachers write floats")


def begin(strategy: Strategy, total: torch.Tensor) -> None:
    """Make the first teacher's values the total."""
    if strategy.name == "weighted_mean":
        total.mul_(strategy.weights[0])


def finish(strategy: Strategy, total: torch.Tensor, teachers: int, dtype: torch.dtype, key: str) -> torch.Tensor:
    """The result in its dtype. MergeError if a sum does not fit it: a wrong number is never given."""
    if strategy.name == "mean":
        total = total.div_(teachers)
    elif strategy.name == "weighted_mean":
        total = total.div_(sum(strategy.weights))
    if total.dtype == dtype:
        return total
    result = total.to(dtype)
    if strategy.name == "sum" and not _same(result, total):
        raise MergeError(
            f"key {key!r}: the sum of {teachers} teachers does not fit {str(dtype).removeprefix('torch.')}; "
            "merge by mean, or have the teachers write a wider dtype"
        )
    return result


def _same(result: torch.Tensor, total: torch.Tensor) -> bool:
    """Whether a sum survived the way into its dtype: integers exactly, floats without becoming infinite."""
    if result.dtype.is_floating_point or result.dtype.is_complex:
        return not bool((torch.isfinite(total) & ~torch.isfinite(result.to(total.dtype))).any())
    return bool((result.to(total.dtype) == total).all())


def torch_dtype(name: str) -> torch.dtype:
    """Torch's dtype of that name."""
    dtype: Any = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise MergeError(f"this torch ({torch.__version__}) has no dtype {name}; a newer one has")
    return dtype
