"""Records become Avro bytes and come back, the same that fastavro reads and writes; damage is always noticed."""

from __future__ import annotations

import io
import itertools
import json
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.knowledge import column_of, descriptions, same

from tutelage.schemas.codec import Codec
from tutelage.schemas.errors import CorruptData
from tutelage.schemas.knowledge_schema import schema_from_description
from tutelage.schemas.record import Column, Description, End, KeySpec, Ragged, RecordHead

seeds = st.integers(0, 2**32 - 1)


def head_of(rows: int, **changes: Any) -> RecordHead:
    return RecordHead(
        **{
            "run_id": "run-ü",
            "pass_index": 1,
            "sequence": 70,
            "rows": rows,
            "generation": 2,
            "end": None,
            **changes,
        }
    )


def pieces_of(column: Column, cuts: list[int]) -> list[Column]:
    rows = len(column.lengths) if isinstance(column, Ragged) else len(column)
    bounds = [0, *sorted(cut % (rows + 1) for cut in cuts), rows]
    return [
        column.rows(start, stop) if isinstance(column, Ragged) else column[start:stop]
        for start, stop in itertools.pairwise(bounds)
    ]


@given(descriptions(), st.integers(1, 9), seeds, st.lists(st.integers(0, 9), max_size=3))
def test_a_record_comes_back_however_its_rows_were_cut(
    description: Description, rows: int, seed: int, cuts: list[int]
) -> None:
    random = np.random.default_rng(seed)
    columns = {spec.key: column_of(spec, rows, random) for spec in description.specs}
    codec = Codec(description)
    encoded = codec.encode(
        head_of(rows), {key: pieces_of(column, cuts) for key, column in columns.items()}
    )
    whole = codec.encode(head_of(rows), {key: [column] for key, column in columns.items()})
    assert encoded.joined() == whole.joined()
    assert len(encoded.joined()) == encoded.nbytes
    record = codec.decode(encoded.joined(), "here")
    assert record.head == head_of(rows)
    assert record.raw == encoded.joined()
    for key, column in columns.items():
        assert same(record.columns[key], column)


@given(descriptions(), st.integers(1, 5), seeds)
@settings(max_examples=50)
def test_fastavro_reads_what_we_write_and_we_read_what_fastavro_writes(
    description: Description, rows: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    columns: dict[str, list[Column]] = {
        spec.key: [column_of(spec, rows, random)] for spec in description.specs
    }
    codec = Codec(description)
    schema = fastavro.parse_schema(json.loads(schema_from_description(description)))
    body = codec.encode(head_of(rows), columns).joined()
    value: Any = fastavro.schemaless_reader(io.BytesIO(body), schema, None)
    assert (value["rows"], value["sequence"], value["end"]) == (rows, 70, None)
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, value)
    again = codec.decode(out.getvalue(), "here")
    for key, (column,) in columns.items():
        assert same(again.columns[key], column)


def test_an_end_record_comes_back() -> None:
    description = Description(
        (KeySpec(key="x", dtype="float32", shape=(2,)), KeySpec(key="y", dtype="int8", shape=(-1,)))
    )
    codec = Codec(description)
    head = head_of(0, end=End(records=70, rows=2000))
    record = codec.decode(codec.encode(head, {}).joined(), "here")
    assert record.head == head
    assert not record.columns


def example() -> tuple[Codec, bytes]:
    description = Description(
        (
            KeySpec(key="x", dtype="float32", shape=(2,)),
            KeySpec(key="y", dtype="int16", shape=(-1,)),
        )
    )
    codec = Codec(description)
    columns: dict[str, list[Column]] = {
        "x": [np.arange(6, dtype=np.float32).reshape(3, 2)],
        "y": [Ragged(np.arange(4, dtype=np.int16), np.array([1, 0, 3]))],
    }
    return codec, codec.encode(head_of(3), columns).joined()


def test_every_flipped_bit_is_noticed() -> None:
    codec, body = example()
    for index in range(len(body) * 8):
        damaged = bytearray(body)
        damaged[index // 8] ^= 1 << index % 8
        with pytest.raises(CorruptData, match="here"):
            codec.decode(bytes(damaged), "here")


def test_every_cut_and_every_added_byte_is_noticed() -> None:
    codec, body = example()
    for length in range(len(body)):
        with pytest.raises(CorruptData, match="here"):
            codec.decode(body[:length], "here")
    with pytest.raises(CorruptData, match="extra bytes follow"):
        codec.decode(body + b"\0", "here")


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    codec, _ = example()
    with pytest.raises(CorruptData):
        codec.decode(data, "here")


def test_decoding_copies_no_tensor() -> None:
    codec, body = example()
    record = codec.decode(body, "here")
    values = record.columns["x"]
    assert isinstance(values, np.ndarray)
    assert np.shares_memory(values, np.frombuffer(body, np.uint8))


def test_a_checksum_may_be_trusted_when_asked_to() -> None:
    codec, body = example()
    trusting = Codec(codec.description, verify=False)
    damaged = body[:-1] + bytes([body[-1] ^ 1])
    assert trusting.decode(damaged, "here").head == head_of(3)


def test_no_record_of_a_block_is_given_before_what_follows_it_is_known_to_be_whole() -> None:
    """A reader stops behind a run's end record: what is broken there must not go unnoticed."""
    codec = Codec(Description((KeySpec(key="x", dtype="int64", shape=()),)))
    bodies = [
        codec.encode(head_of(2, sequence=at), {"x": [np.arange(2)]}).joined() for at in range(3)
    ]
    payload = b"".join(bodies)
    assert [
        record.head.sequence for record in codec.decode_each(memoryview(payload), 3, "here")
    ] == [0, 1, 2]
    for broken, count in ((payload + b"x", 3), (payload, 4), (payload, 19), (payload, 5)):
        given: list[int] = []
        with pytest.raises(CorruptData, match="here"):
            given.extend(
                record.head.sequence
                for record in codec.decode_each(memoryview(broken), count, "here")
            )
        # The last one before the damage is held back.
        assert given in ([0], [0, 1])
    with pytest.raises(CorruptData, match="here"):
        next(codec.decode_each(memoryview(bodies[0]), 19, "here"))
