"""The sides of the online benchmark: what the writer's and the reader's process do."""

from __future__ import annotations

import json
import threading
import time
from multiprocessing.managers import BaseManager
from queue import Queue
from typing import Any

import numpy as np
import torch

from benchmarks.actors import TIMEOUT_S, Gate
from benchmarks.buffers import numpy_batches
from benchmarks.knowledge import Shape
from tutelage.transport.connection import KafkaConnection

_CONSUME_BYTES = 4 << 20
_AUTHKEY = b"benchmark"


def teach(gate: Gate, kafka: dict[str, Any], topic: str, shape: Shape, count: int) -> None:
    """Tutelage's teacher."""
    from tutelage import KafkaSink, Teacher

    given = shape.batches()
    with Teacher(KafkaSink(topic, **kafka)) as teacher:
        gate.ready()
        teacher.serve(lambda index: given[index % len(given)], range(count))


def learn(gate: Gate, kafka: dict[str, Any], topics: list[str], shape: Shape, count: int) -> float:
    """Tutelage's student, which merges by mean. Returns the time of its last batch."""
    from tutelage import KafkaSource, Student

    student = Student(
        timeout_s=TIMEOUT_S, merge=dict.fromkeys(shape.keys, "mean") if len(topics) > 1 else None
    )
    for topic in topics:
        student.register_teacher(KafkaSource(topic, **kafka))
    key = next(iter(shape.keys))
    with student:
        gate.ready()
        rows = sum(batch[key].shape[0] for batch in student.knowledge(shape.rows))
        came = time.monotonic()
    assert rows == count * shape.rows
    return came


def produce_raw(
    gate: Gate, kafka: dict[str, Any], topic: str, shape: Shape, count: int, partitions: int
) -> None:
    """The raw client: a message per batch."""
    payloads = [b"".join(_bytes(tensor) for tensor in batch.values()) for batch in shape.batches()]
    _produce(
        gate, kafka, topic, partitions, (payloads[index % len(payloads)] for index in range(count))
    )


def consume_raw(
    gate: Gate, kafka: dict[str, Any], topic: str, shape: Shape, count: int, partitions: int
) -> float:
    """The raw client: messages in memory."""
    return _consume(gate, kafka, topic, count, partitions, shape.nbytes, lambda value: len(value))


def produce_serialized(
    gate: Gate, kafka: dict[str, Any], topic: str, shape: Shape, count: int, partitions: int
) -> None:
    """confluent-kafka's AvroSerializer: a bytes field per key."""
    serializer, context = _serializer(kafka, topic, _bytes_schema(shape))
    given = shape.batches()
    fields = list(shape.keys)
    messages = (
        serializer(
            {f"k{i}": _bytes(given[index % len(given)][key]) for i, key in enumerate(fields)},
            context,
        )
        for index in range(count)
    )
    _produce(gate, kafka, topic, partitions, messages)


def consume_serialized(
    gate: Gate, kafka: dict[str, Any], topic: str, shape: Shape, count: int, partitions: int
) -> float:
    """confluent-kafka's AvroDeserializer, to torch tensors."""
    deserializer, context = _deserializer(kafka, topic)

    def take(value: bytes) -> object:
        record = deserializer(value, context)
        return {
            key: torch.frombuffer(bytearray(record[f"k{i}"]), dtype=getattr(torch, dtype)).reshape(
                shape.rows, *inner
            )
            for i, (key, (inner, dtype)) in enumerate(shape.keys.items())
        }

    return _consume(gate, kafka, topic, count, partitions, shape.nbytes, take)


def produce_samples(
    gate: Gate, kafka: dict[str, Any], topic: str, shape: Shape, count: int, partitions: int
) -> None:
    """A message per sample, in which each key is an array<float>."""
    serializer, context = _serializer(kafka, topic, _samples_schema(shape))
    given = shape.batches()
    messages = (
        serializer(
            {
                f"k{i}": given[index % len(given)][key][row].reshape(-1).tolist()
                for i, key in enumerate(shape.keys)
            },
            context,
        )
        for index in range(count)
        for row in range(shape.rows)
    )
    _produce(gate, kafka, topic, partitions, messages)


def consume_samples(
    gate: Gate, kafka: dict[str, Any], topic: str, shape: Shape, count: int, partitions: int
) -> float:
    """The samples, stacked to batches."""
    deserializer, context = _deserializer(kafka, topic)
    pending: list[Any] = []

    def take(value: bytes) -> None:
        pending.append(deserializer(value, context))
        if len(pending) == shape.rows:
            for index in range(len(shape.keys)):
                torch.tensor([record[f"k{index}"] for record in pending])
            pending.clear()

    return _consume(
        gate, kafka, topic, count * shape.rows, partitions, shape.nbytes // shape.rows, take
    )


class _Queues(BaseManager):
    """Serves and finds Pantheon's queue."""


def put_pickled(gate: Gate, port: int, shape: Shape, count: int) -> None:
    """Pantheon's teacher: a queue of 100 pickled dicts, served by multiprocessing.managers."""
    queue: Queue[Any] = Queue(100)
    _Queues.register("knowledge", callable=lambda: queue)
    server = _Queues(("127.0.0.1", port), authkey=_AUTHKEY).get_server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    given = [
        {key: np.array(tensor) for key, tensor in batch.items()} for batch in numpy_batches(shape)
    ]
    gate.ready()
    for index in range(count):
        queue.put(given[index % len(given)])
    queue.put(None)
    deadline = time.monotonic() + TIMEOUT_S
    while not queue.empty() and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.2)
    # The server's own method for stopping would end the process.
    server.listener.close()  # type: ignore[attr-defined]


def get_pickled(gate: Gate, port: int, shape: Shape, count: int) -> float:
    """Pantheon's student. Returns the time of its last batch."""
    _Queues.register("knowledge")
    manager = _Queues(("127.0.0.1", port), authkey=_AUTHKEY)
    deadline = time.monotonic() + TIMEOUT_S
    gate.ready()
    while True:
        try:
            manager.connect()
            break
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    queue = manager.knowledge()  # type: ignore[attr-defined]
    came = 0
    while (batch := queue.get()) is not None:
        came += len({key: torch.from_numpy(array) for key, array in batch.items()}) > 0
    ended = time.monotonic()
    assert came == count
    return ended


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def _produce(gate: Gate, kafka: dict[str, Any], topic: str, partitions: int, messages: Any) -> None:
    producer = KafkaConnection(kafka["bootstrap_servers"]).producer()
    producer.list_topics(timeout=10)
    gate.ready()
    for index, message in enumerate(messages):
        while True:
            try:
                producer.produce(topic, value=message, partition=index % partitions)
                break
            except BufferError:
                producer.poll(0.01)
        if index % 64 == 0:
            producer.poll(0)
    if producer.flush(TIMEOUT_S):
        raise TimeoutError("the broker did not acknowledge everything")
    producer.close()


def _consume(
    gate: Gate,
    kafka: dict[str, Any],
    topic: str,
    count: int,
    partitions: int,
    size: int,
    taken: Any,
) -> float:
    from confluent_kafka import TopicPartition

    consumer = KafkaConnection(kafka["bootstrap_servers"]).consumer(partitions=partitions)
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    consumer.poll(0.5)
    at_once = max(1, min(1000, _CONSUME_BYTES // size))
    gate.ready()
    left = count
    deadline = time.monotonic() + TIMEOUT_S
    while left and time.monotonic() < deadline:
        for message in consumer.consume(at_once, 0.1):
            if message.error() is None:
                taken(message.value())
                left -= 1
    ended = time.monotonic()
    consumer.close()
    if left:
        raise TimeoutError(f"{left} messages did not arrive")
    return ended


def _bytes_schema(shape: Shape) -> str:
    fields = [{"name": f"k{index}", "type": "bytes"} for index in range(len(shape.keys))]
    return json.dumps({"type": "record", "name": "Batch", "fields": fields})


def _samples_schema(shape: Shape) -> str:
    fields = [
        {"name": f"k{index}", "type": {"type": "array", "items": "float"}}
        for index in range(len(shape.keys))
    ]
    return json.dumps({"type": "record", "name": "Sample", "fields": fields})


def _serializer(kafka: dict[str, Any], topic: str, schema: str) -> tuple[Any, Any]:
    from confluent_kafka.schema_registry import SchemaRegistryClient
    from confluent_kafka.schema_registry.avro import AvroSerializer
    from confluent_kafka.serialization import MessageField, SerializationContext

    registry = SchemaRegistryClient({"url": kafka["registry"]})
    return AvroSerializer(registry, schema), SerializationContext(topic, MessageField.VALUE)


def _deserializer(kafka: dict[str, Any], topic: str) -> tuple[Any, Any]:
    from confluent_kafka.schema_registry import SchemaRegistryClient
    from confluent_kafka.schema_registry.avro import AvroDeserializer
    from confluent_kafka.serialization import MessageField, SerializationContext

    registry = SchemaRegistryClient({"url": kafka["registry"]})
    return AvroDeserializer(registry), SerializationContext(topic, MessageField.VALUE)
