"""Small inputs that ask for much: sizes that are not there, payloads that unpack to gigabytes, JSON that nests without end.

All are refused with a typed error, at once, and without more than 64 MiB above what was given.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.bombs import bomb, header_of, message_of, read_all, refused
from support.originals import DENSE, GOLDEN, MIXED, STREAM

from tutelage.schemas.codec import Codec
from tutelage.schemas.container_format import header_bytes
from tutelage.schemas.control import MAX_DEPTH, decode_control
from tutelage.schemas.errors import SchemaError, UnsupportedSchema
from tutelage.schemas.field_names import key_from_field_name
from tutelage.schemas.headers import stream_from_headers, stream_headers
from tutelage.schemas.knowledge_schema import description_from_schema, schema_from_description
from tutelage.schemas.limits import Limits
from tutelage.schemas.varint import encode_long

HUGE = (2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -1, -(2**62), -(2**63))


@pytest.mark.parametrize("codec", ["deflate", "zstandard"])
def test_a_block_that_unpacks_to_far_more_than_the_limit_is_refused_in_little_memory(
    tmp_path: Path, codec: str
) -> None:
    path = bomb(tmp_path, codec, 128 << 20)
    refused(lambda: read_all(path, Limits(record_bytes=16 << 20)))


@pytest.mark.parametrize("size", HUGE)
def test_sizes_that_are_not_there_are_refused(tmp_path: Path, size: int) -> None:
    number = encode_long(size)
    head = (
        encode_long(3)
        + b"run"
        + encode_long(0) * 2
        + encode_long(3)
        + encode_long(0)
        + bytes(8)
        + b"\0"
    )
    for description in (DENSE, MIXED):
        codec = Codec(description)
        for body in (
            number,
            head + number,
            head + encode_long(2) + number * 2,
            head + encode_long(2) + encode_long(3) + number,
        ):
            refused(lambda body=body, codec=codec: codec.decode(body + bytes(64), "bomb"))  # type: ignore[misc]
            refused(
                lambda body=body, codec=codec: list(  # type: ignore[misc]
                    codec.decode_each(memoryview(body), 2**40, "bomb")
                )
            )
    header = header_of(tmp_path)
    path = tmp_path / "huge.avro"
    for block in (number + encode_long(8), encode_long(1) + number, number + number):
        path.write_bytes(header_bytes(header) + block + bytes(64))
        refused(lambda: read_all(path))
    for start in (number, encode_long(1) + number, encode_long(1) + encode_long(1) + b"a" + number):
        path.write_bytes(b"Obj\x01" + start + bytes(1000))
        refused(lambda: read_all(path))
    for body in (
        number,
        b"\x02a\x020" + number,
        b"\x02a\x020\0" + number,
        b"\x02a\x020\x02\0" + number,
    ):
        refused(lambda body=body: decode_control(body + b"abc", "bomb"))  # type: ignore[misc]


@pytest.mark.parametrize("rank", [63, 64, 65, 1000, 1_000_000])
def test_thousands_of_dimensions_are_refused(rank: int) -> None:
    head = (
        encode_long(3)
        + b"run"
        + encode_long(0) * 2
        + encode_long(3)
        + encode_long(0)
        + bytes(8)
        + b"\0"
    )
    for size in (b"\0", b"\x02", encode_long(2**31 - 1)):
        refused(
            lambda size=size: Codec(DENSE).decode(  # type: ignore[misc]
                head + encode_long(rank) + size * rank + b"\0\0", "bomb"
            )
        )
        # One block for each of them.
        refused(
            lambda size=size: Codec(DENSE).decode(head + (b"\x02" + size) * rank + b"\0\0", "bomb")  # type: ignore[misc]
        )
    text = schema_from_description(DENSE).replace('"shape": [2]', f'"shape": {[1] * rank}')
    if rank > 64:
        refused(lambda: description_from_schema(text, "bomb"), UnsupportedSchema)
    refused(
        lambda: decode_control(
            message_of(
                '{"$tensor":0}', [{"dtype": "int8", "shape": [1] * (rank + 2), "data": b"ab"}]
            ),
            "b",
        )
    )


@pytest.mark.parametrize("filler", ["{},", '{"":0},', "0,"])
def test_schemas_full_of_something_else_are_refused(filler: str) -> None:
    text = schema_from_description(DENSE)
    inner = (filler * (((1 << 20) - len(text) - 10) // len(filler)))[:-1]
    refused(
        lambda: description_from_schema(
            text.replace('"type": "string"', f'"type": [{inner}]', 1), "bomb"
        ),
        UnsupportedSchema,
    )
    refused(lambda: description_from_schema(text + " " * (1 << 20), "bomb"), UnsupportedSchema)


def test_schemas_of_too_many_keys_or_keys_twice_are_refused() -> None:
    schema = json.loads(schema_from_description(DENSE))
    fixed = schema["fields"][:-3]
    first = schema["fields"][-3]
    others = [
        {"name": f"k_k{index}", "type": "Tensor", "key": f"k{index}", "dtype": "bool", "shape": []}
        for index in range(10_001)
    ]
    for fields in (others, others[:4_000] + others[:1], others[:1] * 4_000):
        text = json.dumps({**schema, "fields": [*fixed, first, *fields]}, separators=(",", ":"))
        refused(lambda text=text: description_from_schema(text, "bomb"), SchemaError)  # type: ignore[misc]


def test_names_of_300_000_letters_are_refused() -> None:
    for name in (
        "k_" + "_u41_" * 50_000,
        "k__u" + "f" * 300_000 + "_",
        "k__u" + "0" * 300_000 + "41_",
        "k_" + "_" * 300_001,
    ):
        refused(lambda name=name: key_from_field_name(name), SchemaError)  # type: ignore[misc]


@pytest.mark.parametrize("depth", [MAX_DEPTH + 2, 600, 2000, 100_000])
def test_control_messages_without_bottom_are_refused(depth: int) -> None:
    for text in ("[" * depth + "]" * depth, '{"a":' * depth + "0" + "}" * depth):
        refused(lambda text=text: decode_control(message_of(text), "bomb"))  # type: ignore[misc]


def test_headers_full_of_numbers_are_refused() -> None:
    good = dict(stream_headers(STREAM, DENSE))
    for value in (
        b"9" * 5000,
        b"[" * 300 + b"]" * 300,
        b"[" + b"0," * 100_000 + b"0]",
        b"1e999",
        b"-1",
        b"0",
        b"true",
        b"\xff",
    ):
        refused(lambda value=value: stream_from_headers({**good, "tutelage.passes": value}, "bomb"))  # type: ignore[misc]


def test_a_golden_file_cut_short_of_its_header_is_refused_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "cut.avro"
    path.write_bytes((GOLDEN / "null.avro").read_bytes()[:500] + bytes(4 << 20))
    refused(lambda: read_all(path))
