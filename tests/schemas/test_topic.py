"""Names, partitions and headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.streams import NUMBERS, stream_of

from tutelage.schemas.errors import ConfigurationError, CorruptData
from tutelage.schemas.framing import frame, unframe
from tutelage.schemas.headers import stream_from_headers, stream_headers
from tutelage.schemas.record import Stream
from tutelage.schemas.topic import check_topic

texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(texts, texts, st.integers(1, 99), st.integers(1, 99), st.floats(0, 1e10))
def test_an_identity_comes_back_from_its_headers(
    name: str, inputs: str, partitions: int, rows: int, created: float
) -> None:
    stream = Stream(
        run_id=name, teacher=name, revision="", inputs_fingerprint=inputs, passes=2, partitions=partitions, rows_per_record=rows,
        created=created, version="1",
    )  # fmt: skip
    assert stream_from_headers(stream_headers(stream, NUMBERS), "here") == stream


def test_missing_broken_and_absurd_headers_are_refused() -> None:
    good = dict(stream_headers(stream_of(), NUMBERS))
    for name, value in [
        ("partitions", b"0"),
        ("partitions", b'"4"'),
        ("run_id", b"7"),
        ("passes", b"{"),
        ("created", None),
    ]:
        with pytest.raises(CorruptData, match="here"):
            stream_from_headers({**good, f"tutelage.{name}": value}, "here")
    with pytest.raises(CorruptData, match="no Tutelage teacher"):
        stream_from_headers([], "here")


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "ä", "x" * 201])
def test_names_kafka_refuses_are_refused_before_it_sees_them(name: str) -> None:
    with pytest.raises(ConfigurationError, match="topic name"):
        check_topic(name)


@given(st.integers(0, 2**32 - 1), st.binary())
def test_a_frame_comes_off_again(schema_id: int, body: bytes) -> None:
    found, view = unframe(frame(schema_id) + body, "here")
    assert (found, bytes(view)) == (schema_id, body)


@pytest.mark.parametrize("message", [None, b"", b"\0\0\0\0", b"\1\0\0\0\1body"])
def test_a_message_without_a_frame_is_refused(message: bytes | None) -> None:
    with pytest.raises(CorruptData, match="here"):
        unframe(message, "here")
