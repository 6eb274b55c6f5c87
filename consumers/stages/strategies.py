"""The merge strategies: what each does with the teachers' values, and what it can merge.

A strategy is one entry of `RULES`. No I/O, threads or clocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from tutelage.consumers.stages.torch_view import bit_view
from tutelage.schemas.errors import MergeError

Shape = tuple[int, ...]

#: A strategy by name ("mean", "weighted_mean:0.7,0.3"), or a function from the teachers' tensors,
#: each `[rows, ...]`, to one tensor `[rows, ...]`.
MergeStrategy = str | Callable[[Sequence[torch.Tensor]], torch.Tensor]

# Weights outside this range are scaled, because values are added up in float32, which has a smaller
# range than the weights, which are doubles.
_WEIGHT_RANGE = (2.0**-32, 2.0**32)
# If the sum of the weights is a smaller fraction of the largest weight, it is a rounding error.
_LEAST_FRACTION = 2.0**-60


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What a strategy does, and what it can merge.

    It has `fold` or `arrange`, unless it chooses a teacher whose values it takes as they are.

    Args:
        fold: Takes another teacher's values and weight into the total, in place. All are in the
            accumulator's dtype.
        arrange: Returns all teachers' values, each `[rows, *inner]` in their common dtype, beside
            each other. It calculates nothing: only the results of `fold` are checked for values
            that do not fit.
        adds: Whether `fold` adds values up, so that a result may not fit its dtype. Otherwise it
            chooses among the values.
        averages: Whether the total is divided by the sum of the weights, and is a float for
            integers.
        weighted: Whether the user gives weights.
        orders: Whether it compares values, which complex numbers do not allow.
        takes_ragged: Whether it is defined for ragged keys.
        takes_any: Whether it does not look at dtypes and shapes at all.
        chooses: Whether each row of the result is that of one teacher, as it is.
        compared: The part of a row shape in which all teachers must agree.
        shape: The row shape of the result, of the teachers' row shapes.
    """

    fold: Callable[[torch.Tensor, torch.Tensor, float], object] | None = None
    arrange: Callable[[Sequence[torch.Tensor]], torch.Tensor] | None = None
    adds: bool = False
    averages: bool = False
    weighted: bool = False
    orders: bool = False
    takes_ragged: bool = True
    takes_any: bool = False
    chooses: bool = False
    compared: Callable[[Shape], Shape] = lambda shape: shape
    shape: Callable[[Sequence[Shape]], Shape] = lambda shapes: shapes[0]


def _add(total: torch.Tensor, values: torch.Tensor, weight: float) -> None:
    total.add_(values)


def _add_weighted(total: torch.Tensor, values: torch.Tensor, weight: float) -> None:
    total.add_(values, alpha=weight)


def _stack(values: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack([bit_view(each) for each in values], dim=1).view(values[0].dtype)


def _concatenate(values: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([bit_view(each) for each in values], dim=-1).view(values[0].dtype)


RULES: Mapping[str, Rule] = {
    "sum": Rule(fold=_add, adds=True),
    "mean": Rule(fold=_add, adds=True, averages=True),
    "weighted_mean": Rule(fold=_add_weighted, adds=True, averages=True, weighted=True),
    "max": Rule(
        fold=lambda total, values, weight: torch.maximum(total, values, out=total), orders=True
    ),
    "min": Rule(
        fold=lambda total, values, weight: torch.minimum(total, values, out=total), orders=True
    ),
    "stack": Rule(
        arrange=_stack,
        takes_ragged=False,
        shape=lambda shapes: (len(shapes), *shapes[0]),
    ),
    "concat": Rule(
        arrange=_concatenate,
        compared=lambda shape: shape[:-1],
        shape=lambda shapes: (*shapes[0][:-1], sum(shape[-1] for shape in shapes)),
    ),
    "first": Rule(takes_any=True, chooses=True),
    # The first teacher's, where all others have the same, bit for bit (compare.py).
    "same": Rule(chooses=True),
    # The first teacher that answered the row's query (answered_rows.py).
    "answered": Rule(chooses=True),
}
_FUNCTION = Rule(takes_ragged=False, takes_any=True)
STRATEGIES = tuple(RULES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Strategy:
    """A parsed strategy.

    Args:
        name: Its name; `"callable"` for a function.
        rule: What it does.
        weights: One per teacher; empty unless the strategy has weights.
        function: The function, if it is one.
    """

    name: str
    rule: Rule
    weights: tuple[float, ...] = ()
    function: Callable[[Sequence[torch.Tensor]], torch.Tensor] | None = None

    @property
    def is_mean(self) -> bool:
        """Whether the result lies between the smallest and the largest value."""
        return self.rule.averages and min(self.weights, default=0.0) >= 0

    def divisor(self, teachers: int) -> float:
        """The number by which the total of this many teachers is divided."""
        if not self.rule.averages:
            return 1
        return math.fsum(self.weights) if self.rule.weighted else teachers


FIRST = Strategy(name="first", rule=RULES["first"])


def parse_strategy(key: str, strategy: MergeStrategy) -> Strategy:
    """Parse a strategy.

    Args:
        key: The key that is merged with it, for messages.
        strategy: A name, with weights if it needs them, or a function.

    Raises:
        MergeError: There is no such strategy, or its weights cannot be used.
    """
    if callable(strategy):
        return Strategy(name="callable", rule=_FUNCTION, function=strategy)
    name, _, arguments = strategy.partition(":") if isinstance(strategy, str) else ("", "", "")
    rule = RULES.get(name)
    if rule is None or bool(arguments) != rule.weighted:
        raise MergeError(
            f"key {key!r}: {strategy!r} is no merge strategy; use {', '.join(STRATEGIES)} "
            "(weights as 'weighted_mean:0.7,0.3'), or a function"
        )
    weights = _parse_weights(key, arguments) if arguments else ()
    return Strategy(name=name, rule=rule, weights=weights)


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
