"""Everything that reads bytes, each with valid inputs and a check: what it makes of any bytes is right, or a TutelageError.

What carries a checksum (records, files) must come out equal to an original. What carries none (schemas, headers, control messages,
checkpoints, names) may come out as something else, but as something that is valid itself.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from knowledge import same
from streams import stream_of

from tutelage.consumers import MemorySource, MemoryTopic, Student
from tutelage.consumers.checkpoint import load_checkpoint
from tutelage.consumers.order import Order, PassEnd
from tutelage.consumers.place import Place, place_of, state_of
from tutelage.consumers.source import Arrival, Opened, Position
from tutelage.schemas.codec import Codec, Encoded, as_bytes
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.container_writer import ContainerWriter
from tutelage.schemas.control import decode_control, encode_control
from tutelage.schemas.errors import TutelageError
from tutelage.schemas.field_names import field_name, key_of_field
from tutelage.schemas.framing import frame, unframe
from tutelage.schemas.knowledge_schema import description_of, schema_of
from tutelage.schemas.record import Column, Description, End, KeySpec, Ragged, Record, RecordHead
from tutelage.schemas.topic import stream_headers, stream_of_headers

DENSE = Description(
    (KeySpec(key="x", dtype="float32", shape=(2,)), KeySpec(key="y", dtype="int16", shape=()), KeySpec(key="z", dtype="bool", shape=(0,)))
)  # fmt: skip
MIXED = Description(
    (
        KeySpec(key="2x-1", dtype="int64", shape=(1,)),
        KeySpec(key="logits", dtype="float32", shape=(3,), wire="float16"),
        KeySpec(key="tokens", dtype="int32", shape=(-1, 2)),
    )
)
STREAM = stream_of(rows_per_record=3, partitions=1)
_ROWS = (3, 3, 2)
SLOW_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """A reader of bytes. `check` raises AssertionError, or whatever the reader should not have raised, where it is wrong."""

    name: str
    seeds: Sequence[bytes]
    check: Callable[[bytes, Path], None] = field(repr=False)


def columns_of(description: Description, rows: int, first: int) -> dict[str, list[Column]]:
    """Numbers that are all different."""
    columns: dict[str, list[Column]] = {}
    for spec in description.specs:
        if spec.ragged:
            lengths = np.arange(first, first + rows) % 3
            count = int(lengths.sum())
            values = np.arange(count * math.prod(spec.inner)).reshape(count, *spec.inner) + 17 * first
            columns[spec.key] = [Ragged(values.astype(spec.storage.storage), lengths)]
        else:
            size = rows * math.prod(spec.shape)
            columns[spec.key] = [(np.arange(size) + 31 * first).astype(spec.storage.storage).reshape(rows, *spec.shape)]
    return columns


@cache
def records(description: Description) -> tuple[Encoded, ...]:
    """A pass of three records and its end."""
    codec, made = Codec(description), []
    for sequence, rows in enumerate(_ROWS):
        head = RecordHead(run_id="run", pass_index=0, sequence=sequence, rows=rows, generation=sequence % 2)
        made.append(codec.encode(head, columns_of(description, rows, 3 * sequence)))
    end = End(records=len(_ROWS), rows=sum(_ROWS))
    head = RecordHead(run_id="run", pass_index=0, sequence=len(_ROWS), rows=0, generation=0, end=end)
    return (*made, codec.encode(head, {}))


@cache
def originals(description: Description) -> dict[RecordHead, Record]:
    """The records as they decode."""
    codec = Codec(description)
    return {one.head: codec.decode(one.joined(), "original") for one in records(description)}


def refuse_other(record: Record, description: Description) -> None:
    """AssertionError unless the record is one of the originals."""
    original = originals(description).get(record.head)
    assert original is not None, f"{record.head!r} was never written"
    assert list(record.columns) == list(original.columns)
    for key, column in record.columns.items():
        assert same(column, original.columns[key]), f"{record.head}: key {key!r} is another"


def _message(description: Description) -> Callable[[bytes, Path], None]:
    def check(data: bytes, folder: Path) -> None:
        schema_id, body = unframe(data, "fuzz")
        assert 0 <= schema_id < 2**32
        refuse_other(Codec(description).decode(body, "fuzz"), description)

    return check


def _payload(description: Description) -> Callable[[bytes, Path], None]:
    def check(data: bytes, folder: Path) -> None:
        if data:
            # The count is a block's, and so as untrusted as its bytes.
            for record in Codec(description).decode_many(memoryview(data)[1:], data[0], "fuzz"):
                refuse_other(record, description)

    return check


def _payload_seeds(description: Description) -> list[bytes]:
    bodies = [one.joined() for one in records(description)]
    return [bytes((len(bodies),)) + b"".join(bodies), bytes((1,)) + bodies[0], bytes((1,)) + bodies[-1]]


@cache
def container(description: Description, codec: str) -> bytes:
    """A file of the records."""
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"tutelage-fuzz-{os.getpid()}.avro"
    writer = ContainerWriter.create(path, STREAM, description, codec)
    for one in records(description):
        writer.append(writer.pack(one))
    writer.finish()
    data = path.read_bytes()
    path.unlink()
    return data


def in_order(found: Iterator[Record]) -> Iterator[Record]:
    """The records that an order lets through, so that a block that stands twice counts once."""
    order = Order(STREAM, 1, Position())
    for offset, record in enumerate(found):
        order.push(Arrival(partition=0, offset=offset, next_offset=offset + 1, record=record, where="fuzz"))
        while (item := order.pop()) is not None:
            if isinstance(item, PassEnd):
                return
            yield item.record.load()


def _container(description: Description) -> Callable[[bytes, Path], None]:
    def check(data: bytes, folder: Path) -> None:
        path = folder / "fuzz.avro"
        path.write_bytes(data)
        with ContainerReader(path) as reader:
            assert (reader.stream, reader.description) == (STREAM, description)
            read_blocks(reader, description)
            read_places(reader, description)

    return check


def read_blocks(reader: ContainerReader, description: Description) -> None:
    """Read by blocks: a prefix of the pass, then its end or an error."""
    try:
        for sequence, record in enumerate(in_order(record for block in reader.blocks() for record in block.records)):
            assert record.head.sequence == sequence
            refuse_other(record, description)
    except TutelageError as error:
        assert "fuzz" in str(error)


def read_places(reader: ContainerReader, description: Description) -> None:
    """Read what can be read straight to its place, and the rest by the block."""
    try:
        for block in reader.stored_blocks():
            stored = block.record()
            if stored is None:
                for record in block.records():
                    refuse_other(record, description)
                continue
            memory = [bytearray(size) for size in reader.codec.dense_layout(stored.head.rows).sizes]  # type: ignore[union-attr]
            stored.read_into([[memoryview(key)] for key in memory])
            original = originals(description)[stored.head]
            for key, spec in zip(memory, description.specs, strict=True):
                column = original.columns[spec.key]
                assert isinstance(column, np.ndarray)
                assert key == as_bytes(column).tobytes()
    except TutelageError as error:
        assert "fuzz" in str(error)


def _control(data: bytes, folder: Path) -> None:
    _refuse_unlike_json(decode_control(data, "fuzz"))


def _refuse_unlike_json(value: Any) -> None:
    if isinstance(value, list):
        for item in value:
            _refuse_unlike_json(item)
    elif isinstance(value, dict):
        assert all(isinstance(key, str) for key in value)
        _refuse_unlike_json(list(value.values()))
    else:
        assert value is None or isinstance(value, (bool, int, float, str, bytes, np.ndarray)), type(value)


def _schema(data: bytes, folder: Path) -> None:
    description = description_of(data.decode("utf-8", "replace"), "fuzz")
    assert description_of(schema_of(description), "fuzz") == description
    Codec(description).dense_layout(1)


def _headers(data: bytes, folder: Path) -> None:
    headers = [(name, value) for name, _, value in (line.partition(b"=") for line in data.split(b"\n"))]
    stream = stream_of_headers([(name.decode("utf-8", "replace"), value) for name, value in headers], "fuzz")
    assert stream_of_headers(stream_headers(stream), "fuzz") == stream


def _opened(partitions: int) -> tuple[MemorySource, Opened]:
    source = MemorySource(MemoryTopic(name="topic", partitions=partitions))
    stream = stream_of(partitions=partitions, rows_per_record=3)
    return source, Opened(stream=stream, description=DENSE, schema=schema_of(DENSE), partitions=partitions)


_SETTINGS = {"merge": {"x": "mean"}, "sample_id": None, "on_length_mismatch": "error"}


def checkpoint_of(positions: Sequence[Position], rows: int = 7) -> bytes:
    """A checkpoint of sources with as many partitions as their positions have offsets."""
    sources, opened = zip(*(_opened(len(position.offsets)) for position in positions), strict=True)
    place = Place(batches=2, rows=rows, positions=tuple(positions), batch_size=4, drop_last=False)
    return json.dumps(state_of(place, sources, opened, _SETTINGS), indent=1).encode()


_POSITIONS = (Position(sequence=4, row=1, offsets=(2, -1)), Position(sequence=2, row=1, offsets=(2,)))


def _checkpoint(data: bytes, folder: Path) -> None:
    path = folder / "fuzz.json"
    path.write_bytes(data)
    state = load_checkpoint(path)
    sources, opened = zip(*(_opened(len(position.offsets)) for position in _POSITIONS), strict=True)
    student = Student()
    for source in sources:
        student.register_teacher(MemorySource(MemoryTopic(name=source.name + str(source.__hash__()))))
    student.load_state_dict(state)
    place = place_of(state, sources, opened, _SETTINGS)
    assert all(type(number) is int and number >= 0 for number in (place.pass_index, place.batches, place.rows)), place
    for position, found in zip(place.of(2), opened, strict=True):
        assert position.pass_index >= 0 <= position.sequence, position
        assert 0 <= position.row < found.stream.rows_per_record, position
        assert len(position.offsets) in (0, found.partitions) and all(offset >= -1 for offset in position.offsets), position


def _name(data: bytes, folder: Path) -> None:
    name = data.decode("utf-8", "replace")
    assert field_name(key_of_field(name)) == name


def _targets() -> Iterator[Target]:
    for kind, description in (("dense", DENSE), ("mixed", MIXED)):
        yield Target(
            name=f"message-{kind}",
            seeds=[one.joined(frame(258)) for one in records(description)],
            check=_message(description),
        )
        yield Target(name=f"payload-{kind}", seeds=_payload_seeds(description), check=_payload(description))
    for codec, description in (("null", DENSE), ("deflate", MIXED), ("zstandard", DENSE)):
        yield Target(name=f"file-{codec}", seeds=[container(description, codec)], check=_container(description))
    controls: list[Any] = [
        {"a": [1, 2.5, None, "ü"], "$b": b"xy"},
        [np.arange(6, dtype=np.int16).reshape(2, 3), {"t": np.float32(2)}],
    ]
    yield Target(name="control", seeds=[encode_control(value, "me") for value in controls], check=_control)
    yield Target(name="schema", seeds=[schema_of(one).encode() for one in (DENSE, MIXED)], check=_schema)
    headers = b"\n".join(name.encode() + b"=" + value for name, value in stream_headers(STREAM))
    yield Target(name="headers", seeds=[headers], check=_headers)
    yield Target(name="checkpoint", seeds=[checkpoint_of(_POSITIONS)], check=_checkpoint)
    yield Target(name="name", seeds=[field_name(key).encode() for key in ("2x-1", "naïve 鍵", "_", "", "\0")], check=_name)


TARGETS = {target.name: target for target in _targets()}
