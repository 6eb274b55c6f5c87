"""Kafka: a teacher's process to a student's, against the raw client moving the same bytes between two processes.

Both sides' processes are up and connected before the clock starts; it stops when the last byte has arrived.
"""

from __future__ import annotations

import itertools
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, compared
from benchmarks.offline import BATCHES, NBYTES, ROWS, batches
from tutelage.deploy.local import Stack, StackAddresses
from tutelage.schemas.kafka_connection import KafkaConnection

_NUMBERS = itertools.count()
_TIMEOUT_S = 120


def run(rounds: int) -> dict[str, list[Row]]:
    """One partition and four, in a stack of its own."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "stack")
        addresses = stack.up()
        try:
            return {
                f"online, {partitions} partition{'s' * (partitions > 1)}": compared(
                    {
                        "raw client": lambda p=partitions: _timed(_produce_raw, _consume_raw, addresses, p),  # type: ignore[misc]
                        "tutelage": lambda p=partitions: _timed(_teach, _learn, addresses, p),  # type: ignore[misc]
                    },
                    NBYTES,
                    rounds=rounds,
                )
                for partitions in (1, 4)
            }
        finally:
            stack.down()


def _timed(writer: Callable[..., None], reader: Callable[..., None], addresses: StackAddresses, partitions: int) -> float:
    """Seconds from the writer's first byte to the reader's last."""
    topic = f"bench-{next(_NUMBERS)}"
    connection = KafkaConnection(addresses.bootstrap_servers, registry=addresses.registry)
    settings = {"max.message.bytes": str(16 << 20)}
    connection.create_topic(topic, partitions, replication=1, settings=settings)
    context = multiprocessing.get_context("spawn")
    ends = []
    processes = []
    for target in (reader, writer):
        ours, theirs = context.Pipe()
        process = context.Process(target=target, args=(theirs, addresses, topic, partitions), daemon=True)
        process.start()
        processes.append(process)
        ends.append(ours)
    for end in ends:
        _received(end)
    for end in ends:
        end.send("go")
    finished, began = (_received(end) for end in ends)
    for process in processes:
        process.join(_TIMEOUT_S)
    admin = connection.admin()
    admin.delete_topics([topic])[topic].result(_TIMEOUT_S)
    return float(finished - began)


def _received(end: Connection) -> Any:
    if not end.poll(_TIMEOUT_S):
        raise TimeoutError(f"a benchmark's process said nothing for {_TIMEOUT_S} s")
    return end.recv()


def _produce_raw(pipe: Connection, addresses: StackAddresses, topic: str, partitions: int) -> None:
    producer = KafkaConnection(addresses.bootstrap_servers).producer()
    payloads = [b"".join(tensor.numpy().tobytes() for tensor in batch.values()) for batch in batches()]
    producer.list_topics(timeout=10)
    pipe.send("ready")
    pipe.recv()
    began = time.monotonic()
    for index in range(BATCHES):
        while True:
            try:
                producer.produce(topic, value=payloads[index % len(payloads)], partition=index % partitions)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    producer.flush(_TIMEOUT_S)
    pipe.send(began)


def _consume_raw(pipe: Connection, addresses: StackAddresses, topic: str, partitions: int) -> None:
    from confluent_kafka import TopicPartition

    consumer = KafkaConnection(addresses.bootstrap_servers).consumer()
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    consumer.poll(1)
    pipe.send("ready")
    pipe.recv()
    count = 0
    while count < BATCHES:
        count += sum(message.error() is None for message in consumer.consume(16, 0.1))
    pipe.send(time.monotonic())
    consumer.close()


def _teach(pipe: Connection, addresses: StackAddresses, topic: str, partitions: int) -> None:
    from tutelage.producers import KafkaSink, Teacher

    given = batches()
    with Teacher(KafkaSink(topic, bootstrap_servers=addresses.bootstrap_servers, registry=addresses.registry)) as teacher:
        pipe.send("ready")
        pipe.recv()
        began = time.monotonic()
        teacher.serve(lambda index: given[index % len(given)], range(BATCHES))
        pipe.send(began)


def _learn(pipe: Connection, addresses: StackAddresses, topic: str, partitions: int) -> None:
    from tutelage.consumers import KafkaSource, Student

    student = Student(timeout_s=_TIMEOUT_S)
    student.register_teacher(KafkaSource(topic, bootstrap_servers=addresses.bootstrap_servers, registry=addresses.registry))
    with student:
        pipe.send("ready")
        pipe.recv()
        rows = sum(len(batch["label"]) for batch in student.knowledge(ROWS))
        pipe.send(time.monotonic())
    assert rows == BATCHES * ROWS
