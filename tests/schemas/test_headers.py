"""Headers say the format, who wrote a record and what it holds; each thing that is wrong with them is said."""

from __future__ import annotations

import json

import pytest
from support.streams import NUMBERS, stream_of

from tutelage.schemas.errors import CorruptData, SchemaError, UnsupportedFormat
from tutelage.schemas.headers import (
    check_description,
    run_from_headers,
    stream_from_headers,
    stream_headers,
)
from tutelage.schemas.record import Description, KeySpec

GOOD = dict(stream_headers(stream_of(), NUMBERS))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("passes", None, "tutelage.passes is missing"),
        ("passes", b"{", "tutelage.passes is not JSON"),
        ("passes", b"\xff", "tutelage.passes is not JSON"),
        ("passes", b'"2"', "not a JSON integer"),
        ("run_id", b"7", "not a JSON string"),
        ("created", b"1e999", "tutelage.created"),
        ("created", b"1" + b"0" * 400, "tutelage.created"),
        ("partitions", b"0", "tutelage.partitions is 0; it must be from 1"),
        ("format", b'"2"', "tutelage.format"),
    ],
)
def test_a_header_that_is_wrong_is_named_with_what_is_wrong(
    name: str, value: bytes | None, words: str
) -> None:
    with pytest.raises(CorruptData, match="here") as raised:
        stream_from_headers({**GOOD, f"tutelage.{name}": value}, "here")
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (3, "format 3, written by Tutelage test; this Tutelage reads format 2. Install a newer"),
        (1, "format 1"),
        (-1, "again"),
    ],
)
def test_another_version_of_the_format_is_refused_by_name(version: int, words: str) -> None:
    with pytest.raises(UnsupportedFormat, match="here") as raised:
        stream_from_headers({**GOOD, "tutelage.format": json.dumps(version).encode()}, "here")
    assert words in str(raised.value)


def test_headers_without_a_format_are_of_format_1() -> None:
    with pytest.raises(UnsupportedFormat, match="format 1"):
        stream_from_headers(
            {name: value for name, value in GOOD.items() if name != "tutelage.format"}, "here"
        )


@pytest.mark.parametrize(
    "change",
    [
        {"key": "y"},
        {"dtype": "uint64"},
        {"dtype": "float64", "wire": "float32"},
        {"shape": (1, 1)},
        {"shape": (-1,)},
    ],
)
def test_the_fingerprint_tells_descriptions_apart(change: dict[str, object]) -> None:
    check_description(GOOD, NUMBERS, "here")
    spec = {"key": "x", "dtype": "int64", "shape": (1,), **change}
    other = Description((KeySpec(**spec),))  # type: ignore[arg-type]
    with pytest.raises(SchemaError, match=r"here.*not what its teacher wrote"):
        check_description(GOOD, other, "here")


def test_the_run_of_a_record_is_told_from_its_headers_alone() -> None:
    assert run_from_headers(GOOD) == ("run", 0.0)
    assert run_from_headers([]) is None
    assert run_from_headers({**GOOD, "tutelage.run_id": b"{"}) is None
    assert run_from_headers({**GOOD, "tutelage.created": b"true"}) is None
