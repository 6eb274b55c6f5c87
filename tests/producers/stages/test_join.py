"""Small batches are joined into one; anything out of the ordinary is left to the way batch by batch, which says what it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tutelage.producers.stages.join import join_batches
from tutelage.producers.stages.transfer import start_transfer, start_transfers
from tutelage.producers.wire_options import WireOptions
from tutelage.schemas.errors import TutelageError
from tutelage.schemas.record import Description

OPTIONS = WireOptions(dtypes="", encoded={}, ragged=frozenset())


def batch(rows: int, dtype: str = "float32") -> dict[str, Any]:
    return {
        "a": torch.arange(rows * 2).reshape(rows, 2).to(getattr(torch, dtype)),
        "b": np.arange(rows, dtype=np.int16),
    }


def described(dtype: str = "float32") -> Description:
    return start_transfer(batch(1, dtype), OPTIONS).description


@given(
    st.lists(st.integers(0, 5), min_size=2, max_size=6),
    st.sampled_from(["float32", "bfloat16", "bool", "int64", "float8_e5m2"]),
)
def test_joined_batches_hold_the_rows_of_all_in_order(rows: list[int], dtype: str) -> None:
    promised = described(dtype)
    group = [batch(count, dtype) for count in rows]
    (together,) = start_transfers(group, OPTIONS, promised, None)
    alone = [start_transfer(one, OPTIONS, promised).columns() for one in group]
    assert (together.rows, together.counts) == (sum(rows), rows)
    assert together.description == promised
    for key, column in together.columns().items():
        assert isinstance(column, np.ndarray)
        parts = [np.asarray(one[key]) for one in alone]
        assert column.tobytes() == b"".join(part.tobytes() for part in parts)
        assert (column.dtype, column.shape[1:]) == (parts[0].dtype, parts[0].shape[1:])


def test_half_precision_is_encoded_after_joining() -> None:
    options = WireOptions(dtypes="float16", encoded={}, ragged=frozenset())
    promised = start_transfer(batch(1), options).description
    (together,) = start_transfers([batch(3), batch(2)], options, promised, None)
    assert together.columns()["a"].dtype == np.float16  # type: ignore[union-attr]  # a dense key


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.zeros(2, 2)},
        {"a": torch.zeros(2, 2), "c": np.zeros(2, np.int16)},
        {"a": torch.zeros(2, 3), "b": np.zeros(2, np.int16)},
        {"a": torch.zeros(2, 2, dtype=torch.float64), "b": np.zeros(2, np.int16)},
        {"a": torch.zeros(2, 2), "b": np.zeros(3, np.int16)},
        {"a": torch.zeros(2, 2).to_sparse(), "b": np.zeros(2, np.int16)},
        {"a": torch.zeros(0), "b": np.zeros(0, np.int16)},
        {"a": torch.tensor(1.0), "b": np.zeros(2, np.int16)},
        [1, 2],
    ],
)
def test_a_batch_unlike_the_others_is_named_as_it_would_be_alone(other: Any) -> None:
    promised = described()
    assert join_batches([batch(2), other], promised) is None
    with pytest.raises(TutelageError) as alone:
        start_transfer(other, OPTIONS, promised)
    with pytest.raises(TutelageError) as together:
        start_transfers([batch(2), other], OPTIONS, promised, None)
    assert str(together.value) == str(alone.value)


def test_large_batches_are_viewed_not_joined() -> None:
    group = [{"x": torch.zeros(1 << 18)} for _ in range(2)]
    promised = start_transfer(group[0], OPTIONS).description
    found = start_transfers(group, OPTIONS, promised, None)
    group[1]["x"] += 1
    assert [int(one.columns()["x"].sum()) for one in found] == [0, 1 << 18]  # type: ignore[union-attr]  # a dense key
