"""Avro's long, against the specification's examples and fastavro."""

from __future__ import annotations

import io

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.schemas.varint import decode_long, encode_long

longs = st.integers(-(2**63), 2**63 - 1)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [(0, "00"), (-1, "01"), (1, "02"), (-64, "7f"), (64, "8001"), (8192, "808001")],
)
def test_the_specifications_examples(value: int, encoded: str) -> None:
    assert encode_long(value).hex() == encoded


@given(longs, st.binary(max_size=3))
def test_a_long_comes_back_wherever_it_lies(value: int, before: bytes) -> None:
    buffer = before + encode_long(value) + b"\xff"
    assert decode_long(buffer, len(before)) == (value, len(buffer) - 1)


@given(longs)
def test_fastavro_writes_the_same_bytes(value: int) -> None:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, "long", value)
    assert out.getvalue() == encode_long(value)


def test_a_cut_long_and_an_endless_one_are_refused() -> None:
    with pytest.raises(IndexError):
        decode_long(b"\x80\x80", 0)
    with pytest.raises(ValueError, match="64 bits"):
        decode_long(b"\x80" * 1000, 0)
    with pytest.raises(ValueError, match="64 bits"):
        decode_long(b"\xff" * 9 + b"\x7f", 0)
