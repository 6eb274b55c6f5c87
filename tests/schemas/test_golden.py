"""Bytes written once: those of format 2 are read for ever, those of format 1 are refused. They are never made again to make a test pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest

from tutelage.schemas.codec import Codec
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.errors import CorruptData, UnsupportedFormat
from tutelage.schemas.framing import frame, unframe
from tutelage.schemas.knowledge_schema import description_from_schema, schema_from_description
from tutelage.schemas.record import Column, Description, End, KeySpec, Ragged, RecordHead

ALL = Path(__file__).resolve().parent.parent / "golden"
GOLDEN, OLD = ALL / "2", ALL / "1"
DESCRIPTION = Description(
    (
        KeySpec(key="2x-1", dtype="int64", shape=(1,)),
        KeySpec(key="logits", dtype="float32", shape=(2,), wire="float16"),
        KeySpec(key="tokens", dtype="int32", shape=(-1,)),
        KeySpec(key="naïve 鍵", dtype="bool", shape=()),
    )
)
COLUMNS: dict[str, list[Column]] = {
    "2x-1": [np.array([[-1], [1], [3]])],
    "logits": [np.array([[0.5, -2.0], [1.0, 65504.0], [0.0, -0.0]], np.float16)],
    "tokens": [Ragged(np.array([7, 8, 9], np.int32), np.array([2, 0, 1]))],
    "naïve 鍵": [np.array([True, False, True])],
}
HEAD = RecordHead(run_id="golden", pass_index=0, sequence=0, rows=3, generation=1)
END = RecordHead(
    run_id="golden", pass_index=0, sequence=1, rows=0, generation=1, end=End(records=1, rows=3)
)


def test_a_record_is_encoded_to_the_same_bytes_as_ever() -> None:
    codec = Codec(DESCRIPTION)
    assert frame(258) + codec.encode(HEAD, COLUMNS).joined() == (GOLDEN / "record.bin").read_bytes()
    assert frame(258) + codec.encode(END, {}).joined() == (GOLDEN / "end.bin").read_bytes()


def test_the_schema_is_the_same_as_ever() -> None:
    assert json.loads(schema_from_description(DESCRIPTION)) == json.loads(
        (GOLDEN / "schema.json").read_text(encoding="utf-8")
    )


def test_messages_of_old_are_read() -> None:
    codec = Codec(
        description_from_schema((GOLDEN / "schema.json").read_text(encoding="utf-8"), "golden")
    )
    for name, head in (("record.bin", HEAD), ("end.bin", END)):
        schema_id, body = unframe((GOLDEN / name).read_bytes(), name)
        assert schema_id == 258
        assert codec.decode(body, name).head == head


@pytest.mark.parametrize("codec", ["null", "deflate", "zstandard"])
def test_files_of_old_are_read_by_us_and_by_fastavro(codec: str) -> None:
    path = GOLDEN / f"{codec}.avro"
    with ContainerReader(path) as reader:
        record, end = [record for block in reader.blocks() for record in block.records]
        assert reader.stream.teacher == "golden teacher"
    assert (record.head, end.head) == (HEAD, END)
    logits = record.columns["logits"]
    assert isinstance(logits, np.ndarray)
    assert logits.tolist() == [[0.5, -2.0], [1.0, 65504.0], [0.0, 0.0]]
    with path.open("rb") as file:
        values: Any = list(fastavro.reader(file))
    assert values[0]["k_tokens"]["shape"] == [3]
    assert values[1]["end"] == {"records": 1, "rows": 3}


@pytest.mark.parametrize("codec", ["null", "deflate", "zstandard"])
def test_files_of_format_1_are_refused_by_name(codec: str) -> None:
    with pytest.raises(UnsupportedFormat, match="format 1.*this one reads format 2"):
        ContainerReader(OLD / f"{codec}.avro")


def test_records_of_format_1_fail_their_checksum() -> None:
    codec = Codec(DESCRIPTION)
    for name in ("record.bin", "end.bin"):
        _, body = unframe((OLD / name).read_bytes(), name)
        with pytest.raises(CorruptData, match="checksum"):
            codec.decode(body, name)
