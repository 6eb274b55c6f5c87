"""Brokers die, stand still, lose data; topics go, change, come again; the network between is slow, cut, or reset."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewPartitions

from faults.cluster import PARTITIONS, RECORDS, ROWS, Cluster, Outcome, one_line, until

pytestmark = [pytest.mark.kafka, pytest.mark.faults, pytest.mark.timeout(900)]


def test_01_kill_each_broker(running: Cluster, outcome: Outcome, tmp_path: Path) -> None:
    """kill -9 of each broker in turn."""
    topic = running.topic("kill")
    student = running.learn(topic, tmp_path)
    teacher = running.teach(topic, tmp_path, seconds="0.15")
    for index, name in enumerate(running.brokers()):
        running.await_records(topic, 10 + 25 * index)
        running.stack.kill(name)
        time.sleep(4)
        running.stack.restart(name)
        running.stack.await_ready()
    assert teacher.ended()[0] == 0
    running.same(student, outcome)
    # Some seven seconds, on a machine with nothing else to do; the table says how long it was.
    assert outcome.stall_s < 60
    outcome.done = "3 brokers killed and restarted under teacher and student"


def test_02_stop_a_leader(running: Cluster, outcome: Outcome, tmp_path: Path) -> None:
    """SIGSTOP of a leader for 20 s."""
    topic = running.topic("stop")
    student = running.learn(topic, tmp_path)
    teacher = running.teach(topic, tmp_path, seconds="0.1")
    running.await_records(topic, 20)
    metadata = running.connection().admin().list_topics(topic, timeout=20)
    leader = f"kafka-{metadata.topics[topic].partitions[0].leader}"
    running.stack.pause(leader)
    time.sleep(20)
    running.stack.resume(leader)
    assert teacher.ended()[0] == 0
    running.same(student, outcome)
    outcome.done = f"{leader} paused for 20 s, then continued"


def test_03_kill_two_brokers(running: Cluster, outcome: Outcome, tmp_path: Path) -> None:
    """kill -9 of two of three brokers."""
    topic = running.topic("two")
    student = running.learn(topic, tmp_path)
    teacher = running.teach(topic, tmp_path, seconds="0.1")
    running.await_records(topic, 20)
    for name in running.brokers()[:2]:
        running.stack.kill(name)
    time.sleep(8)
    assert teacher.running()
    assert student.running()
    for name in running.brokers()[:2]:
        running.stack.restart(name)
    running.stack.await_ready()
    assert teacher.ended()[0] == 0
    running.same(student, outcome)
    outcome.done = "no quorum for 8 s: both wait; then both go on"


def test_13_a_byte_of_a_segment_changes(running: Cluster, outcome: Outcome, tmp_path: Path) -> None:
    """a byte of a log segment flips."""
    topic = running.topic("segment")
    running.asked(topic).create(1, replication=1, settings={"max.message.bytes": str(16 << 20)})
    code, _, err = running.begin(
        "teach",
        "tutelage.examples.toy.lessons:teacher1",
        "--topic",
        topic,
        "--rows-per-record",
        "50",
        cwd=tmp_path,
    ).ended()
    assert code == 0, err
    admin = running.connection().admin()
    name = f"kafka-{admin.list_topics(topic, timeout=20).topics[topic].partitions[0].leader}"
    running.stack.kill(name)
    (segment,) = (running.stack.folder / name / f"{topic}-0").glob("*.log")
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 0x10
    segment.write_bytes(data)
    running.stack.restart(name)
    running.stack.await_ready()
    code, out, err = running.begin(
        "learn", f"topic:{topic}", "--json", "--timeout", "20", cwd=tmp_path
    ).ended()
    assert code in (4, 5, 6), (code, err)
    assert out == ""
    outcome.done = "byte flipped on disk, broker restarted"
    outcome.verdict = f"exit {code}: {one_line(err, topic)[7:90]}"


def test_14_records_are_deleted_before_they_are_read(
    running: Cluster, outcome: Outcome, tmp_path: Path
) -> None:
    """delete_records past the position."""
    topic = running.topic("deleted")
    assert running.teach(topic, tmp_path, seconds="0").ended()[0] == 0
    (tmp_path / "slow.py").write_text(
        "import time\ndef train(batches):\n    for _ in batches:\n        time.sleep(0.01)\n",
        encoding="utf-8",
    )
    arguments = (
        "learn",
        f"topic:{topic}",
        "--batch-size",
        "32",
        "--train",
        "slow.py:train",
        "--checkpoint",
        "c.json",
        "--checkpoint-every",
        "1",
    )
    student = running.begin(*arguments, cwd=tmp_path)
    until((tmp_path / "c.json").exists, "the first checkpoint")
    student.kill()
    admin = running.connection().admin()
    for future in admin.delete_records([TopicPartition(topic, 0, 30)]).values():
        future.result(20)
    code, _, err = running.begin(*arguments, cwd=tmp_path).ended()
    assert code == 5, err
    outcome.done = "records deleted behind a checkpoint"
    outcome.verdict = (
        "RetentionLoss: " + one_line(err, f"topic {topic}, partition 0", "deleted")[7:70]
    )


@pytest.mark.parametrize("again", [False, True])
def test_15_the_topic_goes(running: Cluster, outcome: Outcome, tmp_path: Path, again: bool) -> None:
    """the topic is deleted, or made again longer."""
    topic = running.topic("identity")
    teacher = running.teach(topic, tmp_path, seconds="0.1")
    student = running.learn(topic, tmp_path)
    running.await_records(topic, 10)
    until(
        lambda: "waiting" in student.said() or running.held(topic) >= 20,
        "the student to be under way",
    )
    teacher.kill()
    time.sleep(2)
    admin = running.connection().admin()
    began = time.monotonic()
    admin.delete_topics([topic])[topic].result(30)
    if again:
        until(lambda: not running.asked(topic).partitions(), "the topic to be gone")
        assert running.teach(topic, tmp_path, seconds="0").ended()[0] == 0
        began = time.monotonic()
    code, _, err = student.ended(60)
    took = time.monotonic() - began
    assert code == 5, err
    # Two or three seconds, on a machine with nothing else to do.
    assert took < 45
    outcome.done = "deleted" + (" and made again, longer" if again else "")
    outcome.verdict = f"after {took:.0f} s: {one_line(err, topic)[7:80]}"


def test_16_partitions_are_added(running: Cluster, outcome: Outcome, tmp_path: Path) -> None:
    """partitions are added to the topic."""
    topic = running.topic("added")
    student = running.learn(topic, tmp_path)
    teacher = running.teach(topic, tmp_path, seconds="0.05")
    running.await_records(topic, 20)
    admin = running.connection().admin()
    admin.create_partitions([NewPartitions(topic, 2 * PARTITIONS)])[topic].result(30)
    assert teacher.ended()[0] == 0
    running.same(student, outcome)
    later = running.learn(topic, tmp_path)
    running.same(later, outcome)
    outcome.done = (
        f"{PARTITIONS} partitions became {2 * PARTITIONS} in the middle; read live, and again"
    )


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("timeout", {"timeout": 0}),
        ("latency", {"latency": 800, "jitter": 300}),
        ("slicer", {"average_size": 1, "size_variation": 0, "delay": 1}),
        ("reset_peer", {"timeout": 50}),
    ],
)
def test_17_the_network_fails(
    running: Cluster, outcome: Outcome, tmp_path: Path, kind: str, attributes: Any
) -> None:
    """blackhole, latency, slices of one byte, resets."""
    topic = running.topic("network")
    student = running.learn(topic, tmp_path)
    teacher = running.teach(topic, tmp_path, seconds="0.06")
    running.await_records(topic, 15)
    for stream in ("downstream", "upstream"):
        running.proxies.add(kind, stream=stream, **attributes)
    time.sleep(6)
    running.proxies.heal()
    assert teacher.ended(180)[0] == 0
    running.same(student, outcome)
    assert running.held(topic) == RECORDS + PARTITIONS
    outcome.fault = f"network: {kind}"
    outcome.done = f"for 6 s, both ways; {ROWS} rows all the same, none twice in the log"
