"""Sums and means of finite values are right or an error, even if an intermediate value overflows.

They are compared with exact fractions.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.merging import merge_of

from tutelage.consumers.stages.overflow import dtype_range
from tutelage.consumers.stages.strategies import parse_strategy
from tutelage.schemas.errors import MergeError

FLOATS = [
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
]
# The relative step of the accumulator, or of the result if that is coarser.
STEPS = {
    name: max(
        float(torch.finfo(getattr(torch, name)).eps), 2.0**-52 if name == "float64" else 2.0**-23
    )
    for name in FLOATS
}


def array(values: Any, dtype: str) -> np.ndarray[Any, Any]:
    """Values as an array of a dtype, given by its name in torch. The values must fit."""
    storage = getattr(ml_dtypes, dtype, None) or np.dtype(dtype)
    return np.asarray(values, np.float64).astype(storage)


@st.composite
def finite_columns(draw: st.DrawFn) -> tuple[str, list[np.ndarray[Any, Any]]]:
    """A dtype and one column of finite values per teacher; many values are the dtype's extremes."""
    dtype = draw(st.sampled_from(FLOATS))
    most = float(torch.finfo(getattr(torch, dtype)).max)
    values = st.one_of(
        st.sampled_from([most, -most, most / 2, -most / 2, 0.0, 1.0]), st.floats(-most, most)
    )
    teachers, rows = draw(st.integers(2, 5)), draw(st.integers(1, 4))
    return dtype, [
        array(draw(st.lists(values, min_size=rows, max_size=rows)), dtype) for _ in range(teachers)
    ]


@given(finite_columns(), st.data())
def test_means_and_sums_of_finite_values_are_right_or_an_error(
    found: tuple[str, list[np.ndarray[Any, Any]]], data: st.DataObject
) -> None:
    dtype, columns = found
    weights = data.draw(st.lists(st.integers(-2, 9), min_size=len(columns), max_size=len(columns)))
    if sum(weights) <= 0:
        weights = [1] * len(columns)
    strategy = data.draw(
        st.sampled_from(["mean", "sum", "weighted_mean:" + ",".join(map(str, weights))])
    )
    factors = weights if strategy.startswith("weighted") else [1] * len(columns)
    divisor = {"mean": len(columns), "sum": 1}.get(strategy, sum(weights))
    exact: list[tuple[Fraction, Fraction]] = []
    for row in zip(*columns, strict=True):
        terms = [
            factor * Fraction(float(value)) / divisor
            for factor, value in zip(factors, row, strict=True)
        ]
        exact.append((sum(terms, Fraction(0)), sum(map(abs, terms), Fraction(0))))
    most = Fraction(float(torch.finfo(getattr(torch, dtype)).max))
    # A value that rounds to the largest number fits. Close to that limit both answers are right.
    step = Fraction(STEPS[dtype])
    surely_fit = all(abs(value) + 2 * step * around <= most for value, around in exact)
    surely_not = any(abs(value) - 2 * step * around > most * (1 + step) for value, around in exact)
    try:
        merged = merge_of(strategy, *columns, dtypes=[dtype] * len(columns)).double().tolist()
    except MergeError as error:
        assert f"does not fit {dtype}" in str(error)
        assert not surely_fit and (strategy == "sum" or min(factors) < 0), error
        return
    assert not surely_not, merged
    for got, (value, around) in zip(merged, exact, strict=True):
        assert math.isfinite(got)
        least = Fraction(float(torch.finfo(getattr(torch, dtype)).smallest_normal))
        assert abs(Fraction(got) - value) <= 2 * len(columns) * step * max(around, least), (
            got,
            float(value),
        )


LARGEST = float(np.finfo(np.float32).max)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize(
    "strategy", ["mean", "weighted_mean:7,3", "weighted_mean:1,1", "weighted_mean:1e300,1e300"]
)
def test_the_mean_of_masked_logits_is_what_masks_them(dtype: str, strategy: str) -> None:
    real = {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)
    low = float(torch.finfo(getattr(torch, real)).min)
    masked = array([[1.0, low], [low, 3.0]], real)
    if dtype != real:
        masked = masked + 1j * masked[::-1]
    merged = merge_of(strategy, masked, masked, dtypes=[dtype] * 2)
    assert (
        merged.tolist()
        == torch.from_numpy(masked.astype(complex if dtype != real else float))
        .to(merged.dtype)
        .tolist()
    )


def test_a_sum_that_fits_is_right_although_it_overflowed_on_the_way() -> None:
    for dtype in ("float32", "float64"):
        most = float(np.finfo(dtype).max)
        columns = [array([value, 1.0], dtype) for value in (most, most, -most)]
        assert merge_of("sum", *columns).tolist() == [most, 3.0]
    whole = [np.array([value]) for value in (2**62, 2**62, -(2**62))]
    assert merge_of("sum", *whole).tolist() == [2**62]
    least = [np.array([value]) for value in (-(2**62), -(2**62), 2**62, -(2**62))]
    assert merge_of("sum", *least).tolist() == [-(2**63)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64", "float8_e4m3fn", "complex64"])
def test_a_sum_that_does_not_fit_is_an_error_with_key_row_and_dtype(dtype: str) -> None:
    most = float(torch.finfo(getattr(torch, dtype)).max)
    storage = getattr(ml_dtypes, dtype, None) or np.dtype(dtype)
    column = np.array([[0.0], [most]]).astype(storage)
    with pytest.raises(
        MergeError,
        match=rf"key 'k', row 101: the sum of 2 teachers does not fit {dtype}; merge by mean",
    ):
        merge_of("sum", column, column, dtypes=[dtype] * 2)
    with pytest.raises(MergeError, match="does not fit int64"):
        merge_of("sum", np.array([2**62]), np.array([2**62]))


def test_a_weighted_mean_with_a_negative_weight_is_right_or_an_error() -> None:
    one, other = array([LARGEST, 1.0], "float32"), array([LARGEST, 1.0], "float32")
    assert merge_of("weighted_mean:2,-1", one, other).tolist() == [LARGEST, 1.0]
    with pytest.raises(
        MergeError,
        match=r"the weighted_mean of 2 teachers does not fit float32; use weights of at least 0",
    ):
        merge_of("weighted_mean:2,-1", one, -other)
    half = array([60000.0], "float16")
    with pytest.raises(MergeError, match="does not fit float16"):
        merge_of("weighted_mean:3,-1", half, -half)
    # This dtype has no sign: torch turns negative numbers into positive ones.
    powers = [
        np.array([value], np.float32).astype(ml_dtypes.float8_e8m0fnu) for value in (1.0, 8.0)
    ]
    with pytest.raises(MergeError, match="does not fit float8_e8m0fnu"):
        merge_of("weighted_mean:2,-1", *powers, dtypes=["float8_e8m0fnu"] * 2)


def test_nan_and_infinities_arrive_as_torch_propagates_them() -> None:
    inf, nan = math.inf, math.nan
    one, other = (
        array([inf, -inf, nan, inf, LARGEST], "float32"),
        array([1, LARGEST, 1, -inf, LARGEST], "float32"),
    )
    for strategy, divisor in (("sum", 1), ("mean", 2)):
        columns = (one[:4], other[:4])
        expected = (torch.from_numpy(one[:4]) + torch.from_numpy(other[:4])) / divisor
        assert torch.equal(
            merge_of(strategy, *columns).view(torch.int32), expected.view(torch.int32)
        )
    assert merge_of("mean", one, other).tolist()[-1] == LARGEST


@given(
    st.integers(0, 999),
    st.sampled_from(["sum", "mean", "weighted_mean:0.7,0.3", "weighted_mean:3,1"]),
)
def test_where_nothing_overflows_the_bits_are_those_of_plain_arithmetic(
    seed: int, strategy: str
) -> None:
    random = np.random.default_rng(seed)
    one, other = (random.standard_normal((64, 3)).astype(np.float32) for _ in range(2))
    first, second = torch.from_numpy(one), torch.from_numpy(other)
    weights = parse_strategy("k", strategy).weights
    if weights:
        expected = first.mul(weights[0]).add_(second, alpha=weights[1]).div_(sum(weights))
    else:
        expected = (first + second).div_(2 if strategy == "mean" else 1)
    assert torch.equal(merge_of(strategy, one, other), expected)


def test_a_large_batch_with_one_overflow_is_corrected_there_alone() -> None:
    random = np.random.default_rng(0)
    one, other = (random.standard_normal((3, 1 << 18)).astype(np.float32) for _ in range(2))
    one[2, 7] = other[2, 7] = LARGEST
    merged = merge_of("mean", one, other)
    expected = (torch.from_numpy(one) + torch.from_numpy(other)) / 2
    expected[2, 7] = LARGEST
    assert torch.equal(merged, expected)


@pytest.mark.parametrize("strategy", ["max", "min", "stack", "concat"])
def test_a_strategy_that_chooses_values_never_changes_one(strategy: str) -> None:
    beside = np.zeros((1, 1), np.float32)
    with pytest.raises(
        MergeError, match=r"key 'k', row 100: 16777217 of int64 cannot be held by float32"
    ):
        merge_of(strategy, np.array([[2**24 + 1]]), beside)
    with pytest.raises(MergeError, match="100000 of int32 cannot be held by float16"):
        merge_of(strategy, np.array([[100000]], np.int32), beside.astype(np.float16))
    with pytest.raises(MergeError, match=f"{2**63 - 1} of int64 cannot be held by float64"):
        merge_of(strategy, np.array([[2**63 - 1]]), beside.astype(np.float64))
    for value in (2**24, -(2**63), 1):
        assert set(
            merge_of(strategy, np.array([[value]]), beside + np.float32(value)).flatten().tolist()
        ) == {float(value)}
    assert set(merge_of(strategy, np.array([[True]]), beside + 1).flatten().tolist()) == {1.0}


def test_the_mean_of_integers_and_floats_that_leaves_the_common_dtype_is_an_error() -> None:
    with pytest.raises(MergeError, match="the mean of 2 teachers does not fit float16"):
        merge_of("mean", np.array([200000], np.int32), np.array([1.0], np.float16))
    assert merge_of("mean", np.array([100000], np.int32), np.array([2.0], np.float16)).tolist() == [
        50016.0
    ]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("inf,1", "must be finite"),
        ("nan,1", "must be finite"),
        ("-inf,inf", "must be finite"),
        ("0,0", "do not add up"),
        ("1e308,-1e308", "do not add up"),
        ("1e300,-1e300,1", "cancel out"),
        ("", "no merge strategy"),
        ("1,,2", "not numbers"),
    ],
)
def test_weights_that_nothing_can_be_calculated_with_are_refused(
    weights: str, message: str
) -> None:
    with pytest.raises(MergeError, match=message):
        parse_strategy("k", f"weighted_mean:{weights}")


@pytest.mark.parametrize(
    "weights",
    ["1e-320,1e-320", "5e-324,5e-324", "1e308,1e308", "1e300,1e300", "1e-40,1e-40", "1e39,1e39"],
)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "complex64"])
def test_weights_of_any_size_weigh(weights: str, dtype: str) -> None:
    one, other = np.array([1, 3]).astype(dtype), np.array([3, 5]).astype(dtype)
    assert merge_of(f"weighted_mean:{weights}", one, other).tolist() == [2, 4]


@pytest.mark.parametrize("dtype", FLOATS)
def test_what_rounds_to_the_largest_number_fits_and_what_is_beyond_does_not(dtype: str) -> None:
    low, high = dtype_range(getattr(torch, dtype))
    most = float(torch.finfo(getattr(torch, dtype)).max)
    wide = torch.tensor(
        [low, high], dtype=torch.float64 if dtype in ("float32", "float64") else torch.float32
    )
    assert wide.to(getattr(torch, dtype)).double().abs().tolist() == [most, most]
    assert low == -high
