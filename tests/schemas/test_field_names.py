"""Keys of any text become Avro names and come back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.schemas.errors import SchemaError
from tutelage.schemas.field_names import field_name, key_from_field_name

texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(texts)
def test_every_key_comes_back_from_its_name(key: str) -> None:
    name = field_name(key)
    assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)
    assert key_from_field_name(name) == key


@given(texts, texts)
def test_different_keys_have_different_names(one: str, other: str) -> None:
    assert (field_name(one) == field_name(other)) == (one == other)


def test_names_are_those_the_format_promises() -> None:
    assert field_name("logits") == "k_logits"
    assert field_name("2x-1") == "k_2x_u2d_1"
    assert field_name("a_b") == "k_a__b"
    assert field_name("") == "k_"


@pytest.mark.parametrize(
    "name", ["logits", "k_a-b", "k__u41_", "k__u110000_", "k__uzz_", "k__x", "k_a_b", "run_id"]
)
def test_a_name_no_key_has_is_refused(name: str) -> None:
    with pytest.raises(SchemaError):
        key_from_field_name(name)


def test_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(SchemaError, match="Unicode"):
        field_name("\ud800")
