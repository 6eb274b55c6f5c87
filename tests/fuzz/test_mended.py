"""What fuzzing found once, each with the input that showed it: all are refused with a typed error, and in little memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bombs import bomb, frugal, header_of, message_of, read_all, refused
from support.originals import DENSE, STREAM
from support.saved_places import POSITIONS, place_in, state_at

from tutelage.consumers.checkpoint_file import load_checkpoint
from tutelage.schemas.container_format import header_bytes
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.control import decode_control
from tutelage.schemas.errors import CorruptData, UnsupportedSchema
from tutelage.schemas.headers import stream_from_headers, stream_headers
from tutelage.schemas.knowledge_schema import description_from_schema, schema_from_description

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("field", ["pass_index", "batches", "rows", "sequence", "row", "offsets"])
def test_a_checkpoint_with_infinity_is_refused(field: str) -> None:
    state = state_at(POSITIONS)
    position = state["sources"][0]["position"]
    (position if field in ("sequence", "row", "offsets") else state)[field] = (
        [1e999, 1] if field == "offsets" else 1e999
    )
    with pytest.raises(CorruptData):
        place_in(state)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pass_index", -1),
        ("sequence", -1),
        ("row", -1),
        ("row", 3),
        ("offsets", [2]),
        ("offsets", [2, 2, 2]),
        ("offsets", [-2, 1]),
    ],
)
def test_a_checkpoint_of_a_place_where_no_student_can_be_is_refused(field: str, value: Any) -> None:
    state = state_at(POSITIONS)
    state["sources"][0]["position"][field] = value
    with pytest.raises(CorruptData):
        place_in(state)


@pytest.mark.parametrize(
    ("field", "value"),
    [("row", 1), ("row", 0), ("sequence", 1), ("sequence", 3), ("pass_index", 1)],
)
def test_a_checkpoint_whose_numbers_contradict_each_other_is_refused(
    field: str, value: int
) -> None:
    """Two batches of 4 are 8 rows, and so are two records of 3 and 2 rows of the next."""
    state = state_at(POSITIONS)
    state["sources"][0]["position"][field] = value
    with pytest.raises(CorruptData):
        place_in(state)


def test_a_checkpoint_without_bottom_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text(DEEP)
    with pytest.raises(CorruptData):
        load_checkpoint(path)


def test_headers_without_bottom_are_refused() -> None:
    with pytest.raises(CorruptData):
        stream_from_headers(
            {**dict(stream_headers(STREAM, DENSE)), "tutelage.passes": DEEP.encode()}, "bug"
        )


@pytest.mark.parametrize("depth", [600, 700, 800])
def test_schemas_that_nest_deep_are_refused(depth: int) -> None:
    text = schema_from_description(DENSE).replace(
        '"type": "string"', f'"type": {"[" * depth + "]" * depth}', 1
    )
    with pytest.raises(UnsupportedSchema):
        description_from_schema(text, "bug")


def test_a_file_whose_header_holds_half_a_character_is_refused(tmp_path: Path) -> None:
    header = header_of(tmp_path)
    path = tmp_path / "half.avro"
    path.write_bytes(header_bytes(header).replace(b'"run"', b'"\xed\xa0\x80"'))
    with pytest.raises(CorruptData):
        ContainerReader(path)


@pytest.mark.parametrize("created", [b"NaN", b"Infinity", b"1e999"])
def test_headers_with_a_time_that_is_none_are_refused(created: bytes) -> None:
    with pytest.raises(CorruptData):
        stream_from_headers(
            {**dict(stream_headers(STREAM, DENSE)), "tutelage.created": created}, "bug"
        )


def test_a_control_message_that_names_one_tensor_often_takes_little_memory() -> None:
    names = ",".join(['{"$tensor":0}'] * 100)
    tensor = {"dtype": "uint8", "shape": [1 << 20], "data": bytes(np.zeros(1 << 20, np.uint8))}
    frugal(lambda: decode_control(message_of(f"[{names}]", [tensor]), "bug"))


@pytest.mark.parametrize("codec", ["deflate", "zstandard"])
@pytest.mark.parametrize(
    "count",
    [
        1,
        1000,
    ],
)
def test_a_block_that_unpacks_to_far_more_than_its_records_can_have_takes_little_memory(
    tmp_path: Path, codec: str, count: int
) -> None:
    path = bomb(tmp_path, codec, 96 << 20, count)
    refused(lambda: read_all(path))
