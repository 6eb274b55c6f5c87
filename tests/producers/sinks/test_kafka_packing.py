"""A message value is the frame and the record's body, in memory that is used again."""

from __future__ import annotations

import numpy as np
import pytest

from tutelage.producers.sinks.kafka_packing import MessagePacker
from tutelage.schemas.codec import Codec
from tutelage.schemas.framing import unframe
from tutelage.schemas.record import Description, KeySpec, RecordHead


@pytest.mark.parametrize("sizes", [[3, 3, 3], [1000, 1, 7], [1, 500, 2]])
def test_a_value_has_its_own_frame_and_body_whatever_was_packed_before(sizes: list[int]) -> None:
    codec = Codec(Description((KeySpec(key="x", dtype="int64", shape=()),)))
    packer = MessagePacker()
    packer.use_schema(7)
    for sequence, rows in enumerate(sizes):
        head = RecordHead(run_id="run", pass_index=0, sequence=sequence, rows=rows, generation=0)
        encoded = codec.encode(head, {"x": [np.arange(rows)]})
        packed = packer.pack(encoded)
        schema_id, body = unframe(packed.tobytes(), "here")
        assert (schema_id, bytes(body)) == (7, encoded.joined())
        packer.release(packed)


def test_a_value_that_is_in_use_keeps_its_memory() -> None:
    codec = Codec(Description((KeySpec(key="x", dtype="int64", shape=()),)))
    packer = MessagePacker()
    packer.use_schema(7)
    head = RecordHead(run_id="run", pass_index=0, sequence=0, rows=4, generation=0)
    first = packer.pack(codec.encode(head, {"x": [np.arange(4)]}))
    kept = first.tobytes()
    second = packer.pack(codec.encode(head, {"x": [np.zeros(4, np.int64)]}))
    assert not np.shares_memory(first, second)
    assert first.tobytes() == kept
    packer.release(first)
    assert np.shares_memory(first, packer.pack(codec.encode(head, {"x": [np.arange(4)]})))
