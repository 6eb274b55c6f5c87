"""Control messages: JSON-like values, bytes and tensors come back; nothing else travels, nothing unpickles."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.schemas.control import MAX_DEPTH, decode_control, encode_control
from tutelage.schemas.conversation import Message
from tutelage.schemas.errors import ConfigurationError, CorruptData

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | texts
    | st.binary(max_size=8)
)
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def said(value: Any) -> Message:
    return Message(
        id="id",
        session="session",
        reply_to="question",
        asks=True,
        run_id="run",
        seen=7,
        value=value,
    )


@given(values)
def test_every_value_comes_back(value: Any) -> None:
    assert decode_control(encode_control(said(value), "me"), "here").value == value


@pytest.mark.parametrize("key", ["$tensor", "$bytes", "$", "$$x"])
def test_keys_that_look_like_ours_come_back(key: str) -> None:
    assert decode_control(encode_control(said({key: 0}), "me"), "here").value == {key: 0}


@pytest.mark.parametrize(
    "dtype", [np.float32, np.int64, np.bool_, np.complex64, ml_dtypes.bfloat16, np.dtype(">i4")]
)
def test_tensors_come_back(dtype: Any) -> None:
    tensor = np.arange(6).astype(dtype).reshape(2, 3)
    again = decode_control(encode_control(said({"t": [tensor, tensor[:0]]}), "me"), "here").value[
        "t"
    ]
    assert again[0].dtype == np.dtype(dtype).newbyteorder("<")
    assert np.array_equal(again[0].astype(np.complex128), tensor.astype(np.complex128))
    assert again[1].shape == (0, 3)


@pytest.mark.parametrize("value", [object(), {1: 2}, {"f": print}, {"s": {1, 2}}])
def test_anything_else_is_refused_by_the_sender(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="control message"):
        encode_control(said(value), "me")


def test_a_message_that_nests_too_deep_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    with pytest.raises(ConfigurationError, match="nests deeper"):
        encode_control(said(deep), "me")


@given(st.binary(max_size=64))
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    try:
        decode_control(data, "here")
    except CorruptData as error:
        assert "here" in str(error)
