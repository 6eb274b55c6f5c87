"""A writer in plain Python, made from docs/format.md alone: nothing of Tutelage is imported, and numpy is not needed.

Every choice that the page leaves open is made differently from Tutelage's own writer.
"""

from __future__ import annotations

import io
import json
import struct
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fastavro
import xxhash
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

FIXED = json.loads(
    (Path(__file__).resolve().parents[2] / "schemas" / "knowledge.avsc").read_text(encoding="utf-8")
)
TENSOR = {
    "type": "record",
    "name": "Tensor",
    "namespace": "tutelage",
    "fields": [
        {"name": "shape", "type": {"type": "array", "items": "int"}},
        {"name": "data", "type": "bytes"},
    ],
}
RAGGED = {
    **TENSOR,
    "name": "RaggedTensor",
    "fields": [{"name": "lengths", "type": "bytes"}, *TENSOR["fields"]],
}

# key, dtype, wire, row shape; struct's letter of an element on the wire.
Key = tuple[str, str, str, list[int], str]
KEYS: list[Key] = [
    ("2x-1", "int64", "int64", [], "q"),
    ("log_its é", "float32", "float16", [2], "e"),
    ("tokens", "int32", "int32", [-1], "i"),
]


def field_name(key: str) -> str:
    """`k_` and the key, escaped."""
    escaped = [
        "__"
        if letter == "_"
        else letter
        if letter.isascii() and letter.isalnum()
        else f"_u{ord(letter):x}_"
        for letter in key
    ]
    return "k_" + "".join(escaped)


def schema_of(keys: Sequence[Key]) -> dict[str, Any]:
    """The fixed fields and one for each key."""
    fields, defined = list(FIXED["fields"]), set()
    for key, dtype, wire, shape, _ in keys:
        kind = RAGGED if shape[:1] == [-1] else TENSOR
        name = f"tutelage.{kind['name']}"
        empty = (
            {"lengths": "", "shape": [], "data": ""}
            if kind is RAGGED
            else {"shape": [], "data": ""}
        )
        fields.append(
            {
                "name": field_name(key),
                "type": name if name in defined else kind,
                "default": empty,
                "key": key,
                "dtype": dtype,
                "shape": shape,
                "wire": wire,
            }
        )
        defined.add(name)
    return {**FIXED, "fields": fields}


def int64s(*numbers: int) -> bytes:
    """Little-endian int64, one behind the other."""
    return struct.pack(f"<{len(numbers)}q", *numbers)


def description_of(keys: Sequence[Key]) -> bytes:
    """What checksums cover of a schema."""
    found = b""
    for key, dtype, wire, shape, _ in keys:
        for text in (key, dtype, wire):
            found += int64s(len(text.encode())) + text.encode()
        found += int64s(len(shape), *shape)
    return found


def checksum(keys: Sequence[Key], record: dict[str, Any]) -> bytes:
    """A record's checksum."""
    end = record["end"]
    tensors = [record[field_name(key)] for key, *_ in keys]
    covered = int64s(2) + description_of(keys)
    covered += int64s(*(record[name] for name in ("pass_index", "sequence", "rows", "generation")))
    covered += int64s(*((end["records"], end["rows"]) if end else (-1, -1)))
    covered += record["run_id"].encode()
    covered += b"".join(int64s(*tensor["shape"]) for tensor in tensors)
    covered += b"".join(tensor.get("lengths", b"") + tensor["data"] for tensor in tensors)
    return xxhash.xxh3_64_digest(covered)


def values_of(row: int, pass_index: int) -> list[list[Any]]:
    """What row `row` of a pass holds of each key."""
    number = row + 1000 * pass_index
    return [[2 * number - 1], [row / 4, -row], list(range(row % 3))]


def tensors_of(keys: Sequence[Key], rows: Sequence[int], pass_index: int) -> dict[str, Any]:
    """The tensors of a record of these rows; empty ones without any."""
    found: dict[str, Any] = {}
    for index, (key, _, _, shape, letter) in enumerate(keys):
        columns = [values_of(row, pass_index)[index] for row in rows]
        values = [value for column in columns for value in column]
        tensor: dict[str, Any] = {"data": struct.pack(f"<{len(values)}{letter}", *values)}
        if shape[:1] == [-1]:
            tensor["lengths"] = struct.pack(f"<{len(rows)}i", *map(len, columns))
            tensor["shape"] = [len(values), *shape[1:]] if rows else []
        else:
            tensor["shape"] = [len(rows), *shape] if rows else []
        found[field_name(key)] = tensor
    return found


def registered(registry: str, topic: str, schema: dict[str, Any]) -> int:
    """Register a schema; its id."""
    body = json.dumps({"schema": json.dumps(schema), "schemaType": "AVRO"}).encode()
    request = urllib.request.Request(
        f"{registry}/subjects/{topic}-value/versions",
        body,
        {"Content-Type": "application/vnd.schemaregistry.v1+json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return int(json.load(answer)["id"])


def headers_of(
    run_id: str, keys: Sequence[Key], *, partitions: int, rows_per_record: int, passes: int
) -> dict[str, bytes]:
    """A run's headers, in their order."""
    values: dict[str, Any] = {
        "format": 2,
        "run_id": run_id,
        "teacher": "somebody else",
        "revision": "",
        "inputs": "",
        "passes": passes,
        "partitions": partitions,
        "rows_per_record": rows_per_record,
        "created": round(time.time() - 60, 3),
        "version": "not Tutelage",
        "description": xxhash.xxh3_64_hexdigest(description_of(keys)),
    }
    return {f"tutelage.{name}": json.dumps(value).encode() for name, value in values.items()}


def write_topic(
    bootstrap_servers: str, registry: str, topic: str, rows: int, *, partitions: int = 3, rows_per_record: int = 4,
    passes: int = 2, keys: Sequence[Key] = KEYS, headers: dict[str, bytes] | None = None, schema: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Make a topic and write a whole run into it. `headers` and `schema` replace what is right, for tests of what is wrong."""
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    config = {"cleanup.policy": "delete"}
    for future in admin.create_topics([NewTopic(topic, partitions, 1, config=config)]).values():
        future.result(20)
    avro = schema or schema_of(keys)
    start = b"\0" + struct.pack(">I", registered(registry, topic, avro))
    parsed = fastavro.parse_schema(avro)
    run_id = f"run of {topic}"
    right = headers_of(
        run_id, keys, partitions=partitions, rows_per_record=rows_per_record, passes=passes
    )
    sent: list[tuple[str, str | bytes | None]] = list(
        (headers if headers is not None else right).items()
    )
    producer = Producer({"bootstrap.servers": bootstrap_servers, "enable.idempotence": True})

    def send(record: dict[str, Any], partition: int) -> None:
        record["checksum"] = checksum(keys, record)
        body = io.BytesIO(start)
        body.seek(0, io.SEEK_END)
        fastavro.schemaless_writer(body, parsed, record)
        producer.produce(topic, value=body.getvalue(), partition=partition, headers=sent)

    for pass_index in range(passes):
        head: dict[str, Any] = {
            "run_id": run_id,
            "pass_index": pass_index,
            "generation": 0,
            "end": None,
        }
        sequence = 0
        for first in range(0, rows, rows_per_record):
            chosen = range(first, min(rows, first + rows_per_record))
            send(
                {
                    **head,
                    "sequence": sequence,
                    "rows": len(chosen),
                    **tensors_of(keys, chosen, pass_index),
                },
                sequence % partitions,
            )
            sequence += 1
        end = {**head, "sequence": sequence, "rows": 0, "end": {"records": sequence, "rows": rows}}
        for partition in range(partitions):
            send({**end, **tensors_of(keys, (), pass_index)}, partition)
    assert producer.flush(20) == 0
