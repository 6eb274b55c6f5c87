"""Topics that a teacher could have written, message by message, by whoever may write there."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from confluent_kafka import Producer
from support.streams import stream_of

from tutelage.schemas.codec import Codec
from tutelage.schemas.framing import frame
from tutelage.schemas.headers import stream_headers
from tutelage.schemas.knowledge_schema import schema_from_description
from tutelage.schemas.record import Description, KeySpec, RecordHead
from tutelage.schemas.topic import value_subject
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.http_registry import HttpRegistry
from tutelage.transport.topic_admin import KafkaTopic


class Writer:
    """Writes records of one row of `width` bytes to a topic that it makes, in any order, as often as it likes."""

    def __init__(
        self, kafka: dict[str, Any], topic: str, *, width: int, partitions: int = 2, compression: str = "none",
        settings: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self._topic = topic
        self._partitions = partitions
        self._width = width
        KafkaTopic(KafkaConnection(**kafka), topic).create(
            partitions,
            replication=1,
            settings={"max.message.bytes": str(16 << 20), **(settings or {})},
        )
        self._description = description = Description(
            (KeySpec(key="x", dtype="uint8", shape=(width,)),)
        )
        stream = stream_of(partitions=partitions, rows_per_record=1, run_id=topic)
        self._stream = replace(stream, created=round(time.time() - 60, 3))
        registry = HttpRegistry(kafka["registry"])
        registry.prepare(value_subject(topic))
        self._frame = frame(
            registry.register(value_subject(topic), schema_from_description(description))
        )
        registry.close()
        self._codec = Codec(description)
        self._producer = Producer(
            {
                "bootstrap.servers": kafka["bootstrap_servers"],
                "compression.type": compression,
                "message.max.bytes": 1_000_000_000,
                "batch.size": 1 << 20,
                "queue.buffering.max.kbytes": 1 << 20,
            }
        )

    def claim(self, **claims: Any) -> Writer:
        """Claim this of the stream in the headers of what is written from now on."""
        self._stream = replace(self._stream, **claims)
        return self

    def write(self, sequences: Iterable[int], *, seed: int | None = None) -> int:
        """Write these records, of zeros or of numbers that do not compress; returns how many the broker took."""
        headers: list[Any] = list(stream_headers(self._stream, self._description))
        taken: list[bool] = []
        for sequence in sequences:
            row = np.zeros((1, self._width), np.uint8)
            if seed is not None:
                row = np.random.default_rng(seed).integers(0, 256, row.shape, np.uint8)
            head = RecordHead(
                run_id=self._topic, pass_index=0, sequence=sequence, rows=1, generation=0
            )
            body = self._codec.encode(head, {"x": [row]}).joined()
            self._producer.produce(
                self._topic, value=self._frame + body, headers=headers, partition=sequence % self._partitions,
                on_delivery=lambda error, _: taken.append(error is None),
            )  # fmt: skip
            # A batch each, so that a bomb is one.
            self._producer.flush(60)
        return sum(taken)
