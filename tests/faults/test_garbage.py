"""What no teacher wrote, in the middle of a topic: named by topic, partition and offset, and no batch of it given."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from faults.cluster import Cluster, Outcome, one_line

pytestmark = [pytest.mark.kafka, pytest.mark.faults, pytest.mark.timeout(900)]

KINDS = ("magic", "id", "length", "checksum", "dtype", "trailing", "sequence", "run")


@pytest.mark.parametrize("kind", KINDS)
def test_12_garbage(running: Cluster, outcome: Outcome, tmp_path: Path, kind: str) -> None:
    """garbage in the topic."""
    topic = running.topic("garbage")
    teacher = running.begin("teach", "tutelage.examples.toy.lessons:teacher1", "--topic", topic, "--partitions", "1",
                            "--rows-per-record", "20", "--passes", "2", cwd=tmp_path)  # fmt: skip
    assert teacher.ended()[0] == 0
    good = _messages(running, topic)
    # Ten records as they were, then the garbage in place of the eleventh.
    again = running.topic("garbage-again")
    running.asked(again).create(1, replication=3)
    value, headers = bytearray(good[10].value()), good[10].headers()
    if kind == "magic":
        value[0] = 9
    elif kind == "id":
        value[1:5] = struct.pack(">I", 123456)
    elif kind == "length":
        del value[-7:]
    elif kind == "checksum":
        value[-3] ^= 1
    elif kind == "dtype":
        # The schema of another teacher's knowledge.
        other = running.topic("garbage-other")
        assert (
            running.begin(
                "teach",
                "tutelage.examples.toy.lessons:teacher2",
                "--topic",
                other,
                "--partitions",
                "1",
                cwd=tmp_path,
            ).ended()[0]
            == 0
        )
        value[1:5] = _messages(running, other)[0].value()[1:5]
    elif kind == "trailing":
        value += b"more"
    elif kind == "sequence":
        value, headers = bytearray(good[12].value()), good[12].headers()
    else:
        other = running.topic("garbage-run")
        assert (
            running.begin(
                "teach",
                "tutelage.examples.toy.lessons:teacher1",
                "--topic",
                other,
                "--partitions",
                "1",
                cwd=tmp_path,
            ).ended()[0]
            == 0
        )
        # Its headers say that it is of the run that is read; what is of another run by its headers is passed over.
        value = bytearray(_messages(running, other)[0].value())
    producer = running.connection().producer()
    for message in good[:10]:
        producer.produce(again, value=message.value(), headers=message.headers(), partition=0)
    producer.produce(again, value=bytes(value), headers=headers, partition=0)
    assert producer.flush(30) == 0
    producer.close()
    student = running.begin(
        "learn",
        f"topic:{again}",
        "--rows",
        "-1",
        "--batch-size",
        "20",
        "--timeout",
        "20",
        cwd=tmp_path,
    )
    code, out, err = student.ended()
    assert code in (3, 5), (code, err)
    last = (
        one_line(err, f"topic {again}, partition 0, offset 10") if kind != "id" else one_line(err)
    )
    rows = [line for line in out.splitlines() if line.startswith('{"x"')]
    assert len(rows) == 200
    outcome.fault = f"garbage: {kind}"
    outcome.batches = len(rows) // 20
    outcome.done, outcome.verdict = "the records before it are whole", f"exit {code}: {last[7:100]}"


def _messages(running: Cluster, topic: str) -> list[Any]:
    consumer = Consumer(
        {
            "bootstrap.servers": running.addresses.bootstrap_servers,
            "group.id": "look",
            "auto.offset.reset": "earliest",
        }
    )
    consumer.assign([TopicPartition(topic, 0, 0)])
    high = running.held(topic)
    found: list[Any] = []
    while len(found) < high:
        message = consumer.poll(5)
        if message is not None and message.error() is None:
            found.append(message)
    consumer.close()
    return found
