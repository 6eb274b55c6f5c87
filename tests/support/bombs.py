"""Small inputs that ask for much, and the measure of what reading one takes."""

from __future__ import annotations

import io
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pytest
from support.originals import DENSE, container

from tutelage.schemas.container_format import Header, compress, header_bytes
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.control import control_schema
from tutelage.schemas.errors import TutelageError
from tutelage.schemas.limits import DEFAULT_LIMITS, Limits
from tutelage.schemas.varint import encode_long

MOST_BYTES = 64 << 20
MOST_S = 20


def frugal(read: Callable[[], Any]) -> None:
    """AssertionError unless reading takes little memory and comes to an end soon."""
    began = time.perf_counter()
    tracemalloc.start()
    try:
        read()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MOST_BYTES, f"it took {peak >> 20} MiB"
    assert time.perf_counter() - began < MOST_S


def refused(read: Callable[[], Any], kind: type[TutelageError] = TutelageError) -> None:
    """AssertionError unless reading raises that error soon, and in little memory."""

    def reading() -> None:
        with pytest.raises(kind):
            read()

    frugal(reading)


def read_all(path: Path, limits: Limits = DEFAULT_LIMITS) -> None:
    """Everything in a file."""
    with ContainerReader(path, limits=limits) as reader:
        for block in reader.blocks():
            assert block.records


def header_of(folder: Path, description: Any = DENSE) -> Header:
    """The header of a good file."""
    path = folder / "good.avro"
    path.write_bytes(container(description, "null"))
    with ContainerReader(path) as reader:
        return reader.header


def bomb(folder: Path, codec: str, nbytes: int, count: int = 1) -> Path:
    """A file whose one block unpacks to so many zeros, and says that it holds `count` records."""
    good = header_of(folder)
    payload = b"".join(compress(codec, [bytes(nbytes)]))
    header = Header(
        metadata={**good.metadata, "avro.codec": codec.encode()}, sync=good.sync, nbytes=0
    )
    path = folder / "bomb.avro"
    path.write_bytes(
        header_bytes(header) + encode_long(count) + encode_long(len(payload)) + payload + good.sync
    )
    return path


def message_of(value: str, tensors: Any = ()) -> bytes:
    """A control message of any JSON text."""
    out = io.BytesIO()
    message = {
        **dict.fromkeys(("id", "session", "reply_to", "run_id"), ""),
        "asks": False,
        "seen": 0,
        "sender": "me",
        "json": value,
        "tensors": list(tensors),
        "blobs": [],
    }
    fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(control_schema())), message)
    return out.getvalue()
