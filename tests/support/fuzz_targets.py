"""Everything that reads bytes, each with valid inputs and a check: what it makes of any bytes is right, or a TutelageError.

What carries a checksum (records, files, checkpoints) must come out equal to an original. What carries none (schemas, headers, control
messages, states, names) may come out as something else, but as something that is valid itself.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from support.knowledge import same
from support.originals import DENSE, GOLDEN, MIXED, STREAM, container, records
from support.saved_places import POSITIONS, checkpoint_of, place_in, state_at

from tutelage import MemorySource, MemoryTopic, Student
from tutelage.consumers.checkpoint_file import load_checkpoint
from tutelage.consumers.position import Position
from tutelage.consumers.sources.base import ConsumedRecord
from tutelage.consumers.stages.order import Order, PassEnd
from tutelage.schemas.codec import Codec
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.control import decode_control, encode_control
from tutelage.schemas.conversation import Conversation
from tutelage.schemas.errors import TutelageError
from tutelage.schemas.field_names import field_name, key_from_field_name
from tutelage.schemas.framing import frame, unframe
from tutelage.schemas.headers import stream_from_headers, stream_headers
from tutelage.schemas.knowledge_schema import description_from_schema, schema_from_description
from tutelage.schemas.record import Description, Record, RecordHead, Stream
from tutelage.schemas.stored_block import StoredBlock
from tutelage.schemas.tensor_layout import as_bytes

SLOW_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """A reader of bytes. `check` raises AssertionError, or whatever the reader should not have raised, where it is wrong."""

    name: str
    seeds: Sequence[bytes]
    check: Callable[[bytes, Path], None] = field(repr=False)


def check_same_as(record: Record, known: Mapping[RecordHead, Record]) -> None:
    """AssertionError unless the record is one of those that were written."""
    original = known.get(record.head)
    assert original is not None, f"{record.head!r} was never written"
    assert list(record.columns) == list(original.columns)
    for key, column in record.columns.items():
        assert same(column, original.columns[key]), f"{record.head}: key {key!r} is another"


def message_target(name: str, description: Description, seeds: Sequence[bytes]) -> Target:
    """Kafka's messages: a frame and one record."""
    codec = Codec(description)
    known = {
        record.head: record
        for record in (codec.decode(unframe(seed, "seed")[1], "seed") for seed in seeds)
    }

    def check(data: bytes, folder: Path) -> None:
        schema_id, body = unframe(data, "fuzz")
        assert 0 <= schema_id < 2**32
        check_same_as(codec.decode(body, "fuzz"), known)

    return Target(name=name, seeds=seeds, check=check)


def payload_target(name: str, description: Description) -> Target:
    """A block's payload of several records; the first byte is their count, which is as untrusted."""
    codec, bodies = Codec(description), [one.joined() for one in records(description)]
    known = {
        one.head: codec.decode(body, "seed")
        for one, body in zip(records(description), bodies, strict=True)
    }

    def check(data: bytes, folder: Path) -> None:
        if data:
            for record in codec.decode_each(memoryview(data)[1:], data[0], "fuzz"):
                check_same_as(record, known)

    return Target(
        name=name, seeds=[bytes((4,)) + b"".join(bodies), bytes((1,)) + bodies[0]], check=check
    )


def in_order(found: Iterator[Record], stream: Stream) -> Iterator[Record]:
    """The records that an order lets through, so that a block that stands twice counts once."""
    order = Order(stream, stream.partitions, Position())
    for offset, record in enumerate(found):
        order.push(
            ConsumedRecord(
                partition=0, offset=offset, next_offset=offset + 1, record=record, where="fuzz"
            )
        )
        while (item := order.pop()) is not None:
            if isinstance(item, PassEnd):
                return
            yield item.record.load()


def file_target(name: str, data: bytes) -> Target:
    """Files: whatever was done to one, its records come in order, or an error."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzz.avro"
        path.write_bytes(data)
        with ContainerReader(path) as reader:
            stream, description = reader.stream, reader.description
            known = {record.head: record for block in reader.blocks() for record in block.records}

    def check(data: bytes, folder: Path) -> None:
        path = folder / "fuzz.avro"
        path.write_bytes(data)
        with ContainerReader(path) as reader:
            assert (reader.stream, reader.description) == (stream, description)
            with suppress(TutelageError):
                found = (record for block in reader.blocks() for record in block.records)
                for sequence, record in enumerate(in_order(found, stream)):
                    assert record.head.sequence == sequence
                    check_same_as(record, known)
            with suppress(TutelageError):
                for block in reader.stored_blocks():
                    read_to_its_place(reader, block, known)

    return Target(name=name, seeds=[data], check=check)


def read_to_its_place(
    reader: ContainerReader, block: StoredBlock, known: Mapping[RecordHead, Record]
) -> None:
    """Read a block's record straight to where it is wanted, or all of it where that cannot be."""
    stored = block.record()
    if stored is None:
        for record in block.records():
            check_same_as(record, known)
        return
    layout = reader.codec.dense_layout(stored.head.rows)
    assert layout is not None
    memory = [bytearray(size) for size in layout.sizes]
    stored.read_into([[memoryview(key)] for key in memory])
    for key, column in zip(memory, known[stored.head].columns.values(), strict=True):
        assert isinstance(column, np.ndarray)
        assert key == as_bytes(column).tobytes()


def _control(data: bytes, folder: Path) -> None:
    _refuse_unlike_json(decode_control(data, "fuzz").value)


def _refuse_unlike_json(value: Any) -> None:
    if isinstance(value, list):
        for item in value:
            _refuse_unlike_json(item)
    elif isinstance(value, dict):
        assert all(isinstance(key, str) for key in value)
        _refuse_unlike_json(list(value.values()))
    else:
        assert value is None or isinstance(value, (bool, int, float, str, bytes, np.ndarray)), type(
            value
        )


def _schema(data: bytes, folder: Path) -> None:
    description = description_from_schema(data.decode("utf-8", "replace"), "fuzz")
    assert description_from_schema(schema_from_description(description), "fuzz") == description
    Codec(description).dense_layout(1)


def _headers(data: bytes, folder: Path) -> None:
    headers = [
        (name, value) for name, _, value in (line.partition(b"=") for line in data.split(b"\n"))
    ]
    stream = stream_from_headers(
        [(name.decode("utf-8", "replace"), value) for name, value in headers], "fuzz"
    )
    # As text: a number that is none is not equal to itself.
    assert repr(stream_from_headers(stream_headers(stream, DENSE), "fuzz")) == repr(stream)


def _checkpoint(data: bytes, folder: Path) -> None:
    path = folder / "fuzz.json"
    path.write_bytes(data)
    assert load_checkpoint(path) == state_at(POSITIONS)


def _state(data: bytes, folder: Path) -> None:
    """A state that its user kept somewhere else, where it has no checksum."""
    try:
        state = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(state, dict):
        student = Student()
        for index in range(len(POSITIONS)):
            student.register_teacher(MemorySource(MemoryTopic(name=f"topic{index}")))
        student.load_state_dict(state)
        place_in(state)


def _name(data: bytes, folder: Path) -> None:
    name = data.decode("utf-8", "replace")
    assert field_name(key_from_field_name(name)) == name


def _targets() -> Iterator[Target]:
    for kind, description in (("dense", DENSE), ("mixed", MIXED)):
        messages = [frame(258) + one.joined() for one in records(description)]
        yield message_target(f"message-{kind}", description, messages)
        yield payload_target(f"payload-{kind}", description)
    for codec, description in (("null", DENSE), ("deflate", MIXED), ("zstandard", DENSE)):
        yield file_target(f"file-{codec}", container(description, codec))
        yield file_target(f"golden-{codec}", (GOLDEN / f"{codec}.avro").read_bytes())
    golden = description_from_schema((GOLDEN / "schema.json").read_text(encoding="utf-8"), "golden")
    yield message_target(
        "golden-message",
        golden,
        [(GOLDEN / name).read_bytes() for name in ("record.bin", "end.bin")],
    )
    controls: list[Any] = [
        {"a": [1, 2.5, None, "ü"], "$b": b"xy"},
        [np.arange(6, dtype=np.int16).reshape(2, 3), {"t": np.float32(2)}],
    ]
    yield Target(
        name="control",
        seeds=[
            encode_control(Conversation(answers_all=True).compose(value), "me")
            for value in controls
        ],
        check=_control,
    )
    yield Target(
        name="schema",
        seeds=[schema_from_description(one).encode() for one in (DENSE, MIXED, golden)],
        check=_schema,
    )
    headers = b"\n".join(
        name.encode() + b"=" + value for name, value in stream_headers(STREAM, DENSE)
    )
    yield Target(name="headers", seeds=[headers], check=_headers)
    state = state_at(POSITIONS)
    yield Target(name="checkpoint", seeds=[checkpoint_of(state)], check=_checkpoint)
    yield Target(name="state", seeds=[json.dumps(state).encode()], check=_state)
    yield Target(
        name="name",
        seeds=[field_name(key).encode() for key in ("2x-1", "naïve 鍵", "_", "", "\0")],
        check=_name,
    )


TARGETS = {target.name: target for target in _targets()}


def judge(target: Target, data: bytes, folder: Path) -> str:
    """What came of the bytes, in a word; raises where that is wrong, or took too long."""
    began = time.perf_counter()
    try:
        target.check(data, folder)
    except TutelageError as error:
        return type(error).__name__
    finally:
        assert time.perf_counter() - began < SLOW_S, f"{target.name} took too long for {data!r}"
    return "read"
