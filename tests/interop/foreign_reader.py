"""A reader in plain Python, made from docs/format.md alone: nothing of Tutelage is imported.

It reads a topic that holds one whole run, checks what the page says can be checked, and gives the records in order.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from typing import Any

import xxhash
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer

LETTERS = {"int64": "q", "int32": "i", "float32": "f", "float16": "e", "float64": "d", "bool": "?"}


def int64s(*numbers: int) -> bytes:
    """Little-endian int64, one behind the other."""
    return struct.pack(f"<{len(numbers)}q", *numbers)


def keys_of(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The schema's fields that hold keys."""
    return [field for field in schema["fields"] if "key" in field]


def description_of(schema: dict[str, Any]) -> bytes:
    """What checksums cover of a schema."""
    found = b""
    for field in keys_of(schema):
        for text in (field["key"], field["dtype"], field["wire"]):
            found += int64s(len(text.encode())) + text.encode()
        found += int64s(len(field["shape"]), *field["shape"])
    return found


def checksum(schema: dict[str, Any], record: dict[str, Any]) -> bytes:
    """What a record's checksum must be."""
    end = record["end"]
    tensors = [record[field["name"]] for field in keys_of(schema)]
    return xxhash.xxh3_64_digest(
        b"".join(
            (
                int64s(2),
                description_of(schema),
                int64s(
                    record["pass_index"], record["sequence"], record["rows"], record["generation"]
                ),
                int64s(*((end["records"], end["rows"]) if end else (-1, -1))),
                record["run_id"].encode(),
                *(int64s(*tensor["shape"]) for tensor in tensors),
                *(tensor.get("lengths", b"") + tensor["data"] for tensor in tensors),
            )
        )
    )


def rows_of(field: dict[str, Any], tensor: dict[str, Any], rows: int) -> list[list[Any]]:
    """A record's rows of one key, each as its elements in C order."""
    letter = LETTERS[field["wire"]]
    count = len(tensor["data"]) // struct.calcsize(f"<{letter}")
    elements = list(struct.unpack(f"<{count}{letter}", tensor["data"]))
    ragged = field["shape"][:1] == [-1]
    each = 1
    for size in field["shape"][ragged:]:
        each *= size
    lengths = struct.unpack(f"<{rows}i", tensor["lengths"]) if ragged else (1,) * rows
    assert tensor["shape"] == [sum(lengths), *field["shape"][ragged:]]
    found, at = [], 0
    for length in lengths:
        found.append(elements[at : at + length * each])
        at += length * each
    assert at == count
    return found


def messages(
    bootstrap_servers: str, topic: str, partitions: int, seconds: float = 30
) -> Iterator[Any]:
    """Every message of a topic, until each partition was read to where it ends now."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap_servers, "group.id": "foreign", "enable.auto.commit": False}
    )
    try:
        places = [
            TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(partitions)
        ]
        left = {
            place.partition: consumer.get_watermark_offsets(place, timeout=10)[1]
            for place in places
        }
        consumer.assign(places)
        deadline = time.monotonic() + seconds
        while any(left.values()):
            message = consumer.poll(0.5)
            assert time.monotonic() < deadline, left
            if message is not None and message.error() is None:
                partition, offset = message.partition(), message.offset()
                assert partition is not None and offset is not None, (
                    "a message that was read has a place"
                )
                if offset + 1 == left[partition]:
                    left[partition] = 0
                yield message
    finally:
        consumer.close()


def read_topic(
    bootstrap_servers: str, registry: str, topic: str, partitions: int
) -> list[dict[str, list[list[Any]]]]:
    """Per pass, per key, the rows. AssertionError where anything is not as the page says."""
    with SchemaRegistryClient({"url": registry}) as client:
        return _read(bootstrap_servers, topic, partitions, client)


def _read(
    bootstrap_servers: str, topic: str, partitions: int, client: SchemaRegistryClient
) -> list[dict[str, list[list[Any]]]]:
    deserialize = AvroDeserializer(client)
    next_numbers = {partition: (0, partition) for partition in range(partitions)}
    ended = dict.fromkeys(range(partitions), 0)
    found: dict[tuple[int, int], dict[str, list[list[Any]]]] = {}
    counts: dict[int, tuple[int, int]] = {}
    headers: Any = None
    for message in messages(bootstrap_servers, topic, partitions):
        assert message.key() is None
        ours = [header for header in message.headers() if header[0].startswith("tutelage.")]
        headers = headers or ours
        assert ours == headers
        stream = {name.removeprefix("tutelage."): json.loads(value) for name, value in ours}
        assert (stream["format"], stream["partitions"]) == (2, partitions)
        value = message.value()
        magic, schema_id = struct.unpack(">bI", value[:5])
        assert magic == 0
        schema = json.loads(client.get_schema(schema_id).schema_str or "")
        assert stream["description"] == xxhash.xxh3_64_hexdigest(description_of(schema))
        record: Any = deserialize(value, None)
        assert record["run_id"] == stream["run_id"]
        assert record["checksum"] == checksum(schema, record)
        partition, number = message.partition(), (record["pass_index"], record["sequence"])
        if number < next_numbers[partition] and not (
            record["end"] and record["pass_index"] == ended[partition]
        ):
            continue
        if record["end"]:
            assert record["rows"] == 0
            end = (record["end"]["records"], record["end"]["rows"])
            assert counts.setdefault(record["pass_index"], end) == end
            assert record["sequence"] == end[0] <= next_numbers[partition][1]
            ended[partition] += 1
            next_numbers[partition] = (record["pass_index"] + 1, partition)
            continue
        assert number == next_numbers[partition]
        next_numbers[partition] = (number[0], number[1] + partitions)
        found[number] = {
            field["key"]: rows_of(field, record[field["name"]], record["rows"])
            for field in keys_of(schema)
        }
    passes: list[dict[str, list[list[Any]]]] = []
    assert set(ended.values()) == {stream["passes"]} == {len(counts)}
    for pass_index in range(stream["passes"]):
        records = [found[pass_index, sequence] for sequence in range(counts[pass_index][0])]
        passes.append(
            {key: [row for record in records for row in record[key]] for key in records[0]}
        )
        assert all(len(rows) == counts[pass_index][1] for rows in passes[-1].values())
    return passes
