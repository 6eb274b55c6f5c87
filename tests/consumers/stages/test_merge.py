"""Merging keys of several teachers: values are decoded first, accumulated in a wide dtype, and the
result is the same bit for bit, however the rows were cut.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.knowledge import column_of, descriptions
from support.merging import aligned_of, merge_of, merged
from support.resume import tensors_equal

from tutelage.consumers.stages.merge import Batch, Merge, RaggedFormat
from tutelage.consumers.stages.torch_view import tensor_bytes
from tutelage.schemas.errors import LengthMismatch, MergeError, SampleMismatch
from tutelage.schemas.record import Column, Description, KeySpec, Ragged

WAYS = ["sum", "mean", "max", "min", "stack", "concat", "weighted_mean:1,2"]


@pytest.mark.filterwarnings("ignore:.*support is experimental")
@given(descriptions(), st.integers(1, 6), st.integers(0, 6), st.integers(0, 999))
def test_what_one_teacher_has_arrives_bit_for_bit(
    description: Description, rows: int, cut: int, seed: int
) -> None:
    if any(not hasattr(torch, spec.dtype) for spec in description.specs):
        return
    random = np.random.default_rng(seed)
    columns = {spec.key: column_of(spec, rows, random) for spec in description.specs}
    if any(spec.ragged and f"{spec.key}.lengths" in description for spec in description.specs):
        return
    merge = Merge(["t"], [description], {}, ragged=RaggedFormat(padded=False))
    batch = merged(merge, aligned_of([columns], rows, cut))
    for key, column in columns.items():
        values = column.values if isinstance(column, Ragged) else column
        assert tensor_bytes(batch[key]).tobytes() == values.tobytes()
        assert tuple(batch[key].shape) == values.shape
        if isinstance(column, Ragged):
            assert batch[f"{key}.lengths"].tolist() == column.lengths.tolist()


@given(st.integers(1, 150), st.integers(1, 9), st.integers(0, 99), st.sampled_from([*WAYS, sum]))
def test_batches_merged_together_are_those_merged_alone(
    rows: int, batch_size: int, seed: int, strategy: Any
) -> None:
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 3, rows)
    columns: list[dict[str, Column]] = [
        {
            "k": random.standard_normal((rows, 3)).astype(np.float16),
            "r": Ragged(random.standard_normal(int(lengths.sum())).astype(np.float32), lengths),
        }
        for _ in range(2)
    ]
    description = Description(
        (
            KeySpec(key="k", dtype="float32", shape=(3,), wire="float16"),
            KeySpec(key="r", dtype="float32", shape=(-1,)),
        )
    )
    merge = Merge(
        ["a", "b"],
        [description] * 2,
        {"k": strategy, "r": "mean"},
        ragged=RaggedFormat(padded=False),
    )
    together = list(merge.batches(aligned_of(columns, rows, batch_size), batch_size))
    assert [len(batch["k"]) for batch in together] == [
        min(batch_size, rows - at) for at in range(0, rows, batch_size)
    ]
    for index, batch in enumerate(together):
        start, stop = index * batch_size, min(rows, (index + 1) * batch_size)
        alone = [
            {
                key: column.rows(start, stop) if isinstance(column, Ragged) else column[start:stop]
                for key, column in teacher.items()
            }
            for teacher in columns
        ]
        assert tensors_equal(batch, merged(merge, aligned_of(alone, stop - start)))
        assert batch["k"].dtype == torch.float32


def test_a_function_cannot_write_into_what_a_teacher_gave() -> None:
    one, other = np.ones((2, 1), np.float32), np.ones((2, 1), np.float32)
    assert merge_of(lambda tensors: tensors[0].add_(tensors[1]), one, other).tolist() == [[2], [2]]
    assert one.tolist() == [[1], [1]]


def test_half_precision_is_decoded_before_it_is_added() -> None:
    big = np.array([[40000.0], [60000.0]], np.float16)
    assert merge_of("sum", big, big, dtypes=["float32"] * 2, wire="float16").flatten().tolist() == [
        80000,
        120000,
    ]
    assert merge_of("mean", big, big).flatten().tolist() == [40000, 60000]


def test_a_sum_that_does_not_fit_is_an_error_never_a_wrong_number() -> None:
    big = np.array([[40000.0]], np.float16)
    with pytest.raises(MergeError, match="does not fit float16"):
        merge_of("sum", big, big)
    with pytest.raises(MergeError, match="does not fit int8"):
        merge_of("sum", np.array([100], np.int8), np.array([100], np.int8))
    assert merge_of("sum", np.array([100], np.int8), np.array([-100], np.int8)).tolist() == [0]
    infinite = np.array([np.inf], np.float16)
    assert merge_of("sum", infinite, infinite).tolist() == [float("inf")]


def test_the_mean_of_integers_is_a_float_whatever_the_data() -> None:
    for values in ([1, 3], [1, 2]):
        found = merge_of("mean", *(np.array([value]) for value in values))
        assert (found.dtype, found.tolist()) == (torch.float64, [sum(values) / 2])
    assert merge_of("mean", np.array([1], np.int8), np.array([2], np.int8)).dtype == torch.float32
    assert merge_of("mean", np.array([True]), np.array([False])).tolist() == [0.5]
    assert merge_of("sum", np.array([True]), np.array([True])).tolist() == [2]


@pytest.mark.parametrize(
    ("one", "other", "promoted"),
    [
        ("float16", "float32", "float32"),
        ("float16", "bfloat16", "float32"),
        ("int32", "float16", "float16"),
        ("int8", "int64", "int64"),
        ("uint8", "int8", "int16"),
        ("float32", "float64", "float64"),
        ("float8_e4m3fn", "float8_e4m3fn", "float8_e4m3fn"),
        ("float8_e4m3fn", "float8_e5m2", "float32"),
        ("complex64", "float64", "complex128"),
    ],
)
def test_results_have_the_promoted_dtype(one: str, other: str, promoted: str) -> None:
    arrays = [np.ones((1, 2)).astype(getattr(ml_dtypes, name, name)) for name in (one, other)]
    found = merge_of("sum", *arrays, dtypes=[one, other])
    assert str(found.dtype) == f"torch.{promoted}"
    assert found.to(torch.complex64).real.tolist() == [[2, 2]]


def test_each_strategy_does_what_its_name_says() -> None:
    one, other = np.array([[1.0, 5.0]], np.float32), np.array([[3.0, 2.0]], np.float32)
    expected = {
        "sum": [[4, 7]],
        "mean": [[2, 3.5]],
        "weighted_mean:3,1": [[1.5, 4.25]],
        "max": [[3, 5]],
        "min": [[1, 2]],
        "stack": [[[1, 5], [3, 2]]],
        "concat": [[1, 5, 3, 2]],
        "first": [[1, 5]],
    }
    for strategy, values in expected.items():
        assert merge_of(strategy, one, other).tolist() == values, strategy
    assert merge_of(lambda tensors: tensors[0] * tensors[1], one, other).tolist() == [[3, 10]]


def test_arithmetic_is_in_double_for_double_and_in_64_bits_for_integers() -> None:
    tiny = 1 + 2**-40
    assert merge_of("mean", np.array([tiny]), np.array([tiny])).tolist() == [tiny]
    large = 2**53 + 1
    assert merge_of("sum", np.array([large]), np.array([0])).tolist() == [large]


@pytest.mark.parametrize(
    ("strategies", "specs", "message"),
    [
        (
            {},
            [("int8", ()), ("int8", ())],
            r"'k' comes from t0 \(int8\[\]\) and t1.*--merge 'k'=mean|'k' comes from t0",
        ),
        ({"k": "median"}, [("int8", ()), ("int8", ())], "no merge strategy"),
        ({"k": "mean:1"}, [("int8", ()), ("int8", ())], "no merge strategy"),
        ({"k": "weighted_mean"}, [("int8", ()), ("int8", ())], "no merge strategy"),
        ({"k": "weighted_mean:a,b"}, [("int8", ()), ("int8", ())], "not numbers"),
        ({"k": "weighted_mean:1,-1"}, [("int8", ()), ("int8", ())], "add up"),
        ({"k": "weighted_mean:1"}, [("int8", ()), ("int8", ())], "2 teachers, but has 1 weights"),
        ({"k": "mean"}, [("int8", (2,)), ("int8", (3,))], "same shape"),
        ({"k": "concat"}, [("int8", ()), ("int8", ())], "use stack"),
        (
            {"k": "max"},
            [("complex64", ()), ("complex64", ())],
            "cannot be calculated for complex64",
        ),
        (
            {"k": "sum"},
            [("float4_e2m1fn_x2", ()), ("float4_e2m1fn_x2", ())],
            "cannot be calculated",
        ),
        ({"k": "sum"}, [("uint64", ()), ("int64", ())], "cannot be calculated for uint64"),
        (
            {"other": "sum"},
            [("int8", ()), ("int16", ())],
            "no teacher has key 'other'|say how to merge",
        ),
        ({"k": "stack"}, [("int8", (-1,)), ("int8", (-1,))], "ragged"),
        (
            {"k": lambda tensors: tensors[0].reshape(3, 7)},
            [("int8", ()), ("int8", ())],
            "failed on a row of zeros",
        ),
    ],
)
def test_a_merge_that_cannot_be_is_refused_before_any_batch(
    strategies: Any, specs: Any, message: str
) -> None:
    descriptions = [
        Description((KeySpec(key="k", dtype=dtype, shape=shape),)) for dtype, shape in specs
    ]
    with pytest.raises(MergeError, match=message):
        Merge(["t0", "t1"], descriptions, strategies)


def test_sample_ids_are_compared_row_by_row() -> None:
    description = Description((KeySpec(key="id", dtype="int64", shape=()),))
    merge = Merge(["a", "b"], [description] * 2, {}, sample_id="id")
    same: list[dict[str, Column]] = [{"id": np.arange(4)}, {"id": np.arange(4)}]
    assert merged(merge, aligned_of(same, 4))["id"].tolist() == [0, 1, 2, 3]
    other: list[dict[str, Column]] = [{"id": np.arange(4)}, {"id": np.array([0, 1, 9, 3])}]
    with pytest.raises(SampleMismatch, match="row 102: 'id' is 2 of a but 9 of b"):
        merged(merge, aligned_of(other, 4))


@pytest.mark.parametrize("lacking", [0, 1, 2])
def test_a_teacher_without_the_sample_id_is_named_before_any_batch(lacking: int) -> None:
    whole = Description(
        (KeySpec(key="id", dtype="int64", shape=()), KeySpec(key="y", dtype="int8", shape=()))
    )
    without = Description((KeySpec(key="y", dtype="int8", shape=()),))
    found = [without if index == lacking else whole for index in range(3)]
    with pytest.raises(MergeError, match=f"^t{lacking} has no key 'id', the sample id"):
        Merge(["t0", "t1", "t2"], found, {"y": "mean"}, sample_id="id")
    with pytest.raises(MergeError, match="t0 and t1 have no key 'id'"):
        Merge(["t0", "t1", "t2"], [without, without, whole], {"y": "mean"}, sample_id="id")
    with pytest.raises(MergeError, match="no teacher has key 'other'"):
        Merge(["t0"], [whole], {}, sample_id="other")


def test_ids_that_cannot_tell_samples_apart_are_refused() -> None:
    halved = Description((KeySpec(key="id", dtype="float32", shape=(), wire="float16"),))
    whole = Description((KeySpec(key="id", dtype="float32", shape=()),))
    with pytest.raises(MergeError, match="'id' of b is float32 but travels as float16"):
        Merge(["a", "b"], [whole, halved], {}, sample_id="id")
    empty = Description((KeySpec(key="id", dtype="int64", shape=(0,)),))
    with pytest.raises(MergeError, match="hold nothing to compare"):
        Merge(["a", "b"], [empty, empty], {}, sample_id="id")


def test_a_function_is_not_called_for_a_key_that_one_teacher_alone_has() -> None:
    def never(tensors: Any) -> torch.Tensor:
        raise AssertionError("a key of one teacher passes through")

    alone = np.array([[1.5], [2.5]], np.float16)
    assert merge_of(never, alone).tolist() == alone.tolist()
    assert merge_of("weighted_mean:1,2,3", alone).tolist() == alone.tolist()


def test_the_advice_for_integers_without_a_common_dtype_is_one_that_works() -> None:
    one, other = np.array([2**63 + 1], np.uint64), np.array([-5], np.int64)
    assert merge_of("first", one, other).tolist() == [2**63 + 1]
    assert merge_of("first", other, one).tolist() == [-5]
    assert merge_of("stack", one, one).tolist() == [[2**63 + 1] * 2]
    assert merge_of(lambda tensors: tensors[1], one, other).tolist() == [-5]
    for strategy in ("stack", "sum", "max", "weighted_mean:1,2"):
        with pytest.raises(MergeError, match="for uint64 beside int64: .* use first or a function"):
            merge_of(strategy, one, other)
    with pytest.raises(
        MergeError, match="mean cannot be calculated for uint64; use first or stack, or a function"
    ):
        merge_of("mean", one, one)


def ragged_batch(options: RaggedFormat | None, *columns: Ragged, strategies: Any = None) -> Batch:
    description = Description((KeySpec(key="r", dtype="float32", shape=(-1,)),))
    merge = Merge(
        [f"t{index}" for index in range(len(columns))],
        [description] * len(columns),
        strategies or {},
        ragged=options,
    )
    return merged(
        merge, aligned_of([{"r": column} for column in columns], len(columns[0].lengths), 1)
    )


def test_ragged_rows_are_padded_on_the_side_and_with_the_value_asked_for() -> None:
    column = Ragged(np.array([1, 2, 3], np.float32), np.array([2, 0, 1]))
    right = ragged_batch(None, column)
    assert right["r"].tolist() == [[1, 2], [0, 0], [3, 0]]
    assert right["r.lengths"].tolist() == [2, 0, 1]
    left = ragged_batch(RaggedFormat(pad_left=True, pad_value=-1), column)
    assert left["r"].tolist() == [[1, 2], [-1, -1], [-1, 3]]
    assert ragged_batch(RaggedFormat(padded=False), column)["r"].tolist() == [1, 2, 3]


def test_ragged_rows_are_merged_where_their_lengths_agree() -> None:
    one = Ragged(np.array([1, 2, 3], np.float32), np.array([2, 1]))
    assert ragged_batch(None, one, one, strategies={"r": "sum"})["r"].tolist() == [[2, 4], [6, 0]]
    other = Ragged(np.array([1, 2, 3], np.float32), np.array([1, 2]))
    with pytest.raises(LengthMismatch, match="row 100: t0 has 2 elements, t1 1"):
        ragged_batch(None, one, other, strategies={"r": "sum"})


def test_keys_keep_the_order_of_registration() -> None:
    one = Description(
        (KeySpec(key="x", dtype="int8", shape=()), KeySpec(key="r", dtype="int8", shape=()))
    )
    two = Description(
        (KeySpec(key="y", dtype="int8", shape=()), KeySpec(key="r", dtype="int8", shape=()))
    )
    assert list(Merge(["a", "b"], [one, two], {"r": "sum"}).description) == ["x", "r", "y"]


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", ["mean", "first"])
def test_pinned_batches_are_not_written_over_while_they_are_copied_to_the_gpu(
    strategy: str,
) -> None:
    stream = torch.cuda.Stream()
    found = []
    for value in range(8):
        one = np.full((64, 4096), value, np.float32)
        tensor = merge_of(strategy, one, one, pin_memory=True)
        assert tensor.is_pinned()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)
            found.append(tensor[32:].to("cuda", non_blocking=True))
        # Only the running copy still uses it.
        del tensor
    stream.synchronize()
    assert [int(copied.max()) for copied in found] == list(range(8))


def test_unaligned_complex_numbers_arrive_whole() -> None:
    """Records are not aligned, but torch requires complex128 to be."""
    values = np.arange(6).astype(np.complex128).reshape(3, 2) * 1j
    raw = b"\0" * 3 + values.tobytes()
    array = np.frombuffer(raw, np.uint8)[3:].view(np.complex128).reshape(3, 2)
    assert merge_of("first", array).tolist() == values.tolist()
    assert merge_of("sum", array, array).tolist() == (2 * values).tolist()


def test_the_mean_of_large_integers_does_not_wrap_and_their_sum_is_refused() -> None:
    large = np.array([2**62 + 2**61])
    assert merge_of("mean", large, large).tolist() == [float(2**62 + 2**61)]
    with pytest.raises(MergeError, match="does not fit int64"):
        merge_of("sum", large, large)
    assert merge_of("sum", large, -large).tolist() == [0]


@pytest.mark.filterwarnings("ignore:.*support is experimental")
@pytest.mark.parametrize(
    "dtype", ["uint16", "uint64", "float8_e8m0fnu", "complex32", "float4_e2m1fn_x2", "bfloat16"]
)
def test_every_dtype_can_be_padded_and_stacked(dtype: str) -> None:
    if not hasattr(torch, dtype):
        pytest.skip(f"this torch has no {dtype}")
    storage = KeySpec(key="r", dtype=dtype, shape=()).wire_dtype.numpy_dtype
    values = np.arange(3 * storage.itemsize, dtype=np.uint8).view(storage)
    ragged = Description((KeySpec(key="r", dtype=dtype, shape=(-1,)),))
    padded = merged(
        Merge(["t"], [ragged], {}), aligned_of([{"r": Ragged(values, np.array([2, 1]))}], 2)
    )["r"]
    assert tensor_bytes(padded).tobytes() == values.tobytes() + b"\0" * storage.itemsize
    dense = Description((KeySpec(key="r", dtype=dtype, shape=()),))
    stacked = merged(
        Merge(["a", "b"], [dense] * 2, {"r": "stack"}), aligned_of([{"r": values}] * 2, 3)
    )["r"]
    assert stacked.shape == (3, 2)
    assert tensor_bytes(stacked[:, 1]).tobytes() == values.tobytes()
