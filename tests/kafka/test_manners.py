"""How Tutelage behaves on a cluster that belongs to others: topics, groups, names that operators see."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest
import torch
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from tutelage import KafkaSink, KafkaSource, Student, Teacher
from tutelage.deploy.local import Stack, StackAddresses
from tutelage.deploy.local.programs import find_java, kafka_jars
from tutelage.schemas.errors import ConfigurationError, RegistryUnavailable, SchemaError
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.http_registry import COMPATIBILITY, HttpRegistry
from tutelage.transport.topic_admin import KafkaTopic
from tutelage.transport.topic_setup import TOPIC_SETTINGS, Retention, unsafe_settings

Names = Callable[[str], str]
SAFE = {**TOPIC_SETTINGS, "min.insync.replicas": "2"}


def teach(sink: KafkaSink, rows: int = 95, passes: int = 1) -> None:
    with Teacher(sink, passes=passes, rows_per_record=10) as teacher:
        for _ in range(passes):
            teacher.write({"x": torch.arange(rows)})
            teacher.end_pass()


@pytest.mark.parametrize(
    ("settings", "replication", "words"),
    [
        ({}, 1, "replication factor 1 of 3 brokers"),
        ({}, 2, "replication factor 2 of 3 brokers"),
        ({"min.insync.replicas": "1"}, 3, "a record counts as written when one broker has it"),
        ({"min.insync.replicas": "3"}, 3, "one broker that is away stops the teacher"),
        ({"retention.ms": "3600000"}, 3, "1 hours: a student that starts later"),
        ({"retention.bytes": "1000000"}, 3, "loses its beginning"),
        ({"max.message.bytes": "1048588"}, 3, "records are kept to a quarter"),
        ({"unclean.leader.election.enable": "true"}, 3, "they are lost"),
        ({"compression.type": "gzip"}, 3, "the broker compresses every record again"),
    ],
)
def test_each_unsafe_setting_has_its_line(
    settings: dict[str, str], replication: int, words: str
) -> None:
    assert unsafe_settings(SAFE, 3, 3) == []
    assert any(words in line for line in unsafe_settings({**SAFE, **settings}, replication, 3))
    # What a single broker cannot do better is not said.
    assert unsafe_settings({**SAFE, "min.insync.replicas": "1"}, 1, 1) == []


def test_a_run_that_comes_near_its_retention_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    Retention("t", 7 * 86400, time.time() - 2 * 86400).look()
    assert not caplog.records
    retention = Retention("t", 7 * 86400, time.time() - 4 * 86400)
    retention.look()
    retention.look()
    assert [record.getMessage() for record in caplog.records] == [
        "topic t: the run is 96 hours old and its records are kept for 168: a student loses what it has not read by then; raise retention.ms"
    ]


def test_a_topic_that_is_missing_is_only_asked_for_with_no_create(
    kafka: dict[str, Any], topic_name: Names
) -> None:
    topic = topic_name("no-create")
    with pytest.raises(
        ConfigurationError,
        match=rf"kafka-topics.sh --bootstrap-server \S+ --create --topic {topic} --partitions 4 --config cleanup.policy=delete",
    ):
        teach(KafkaSink(topic, create=False, **kafka))
    asked = KafkaTopic(KafkaConnection(kafka["bootstrap_servers"]), topic)
    assert asked.partitions() == 0
    asked.create(3, settings=TOPIC_SETTINGS)
    teach(KafkaSink(topic, create=False, **kafka))
    assert sum(asked.end_offsets(3)) == 10 + 3


def test_with_auto_register_off_the_schema_is_only_looked_for(
    addresses: StackAddresses, kafka: dict[str, Any], topic_name: Names
) -> None:
    topic = topic_name("registered-by-others")
    with SchemaRegistryClient({"url": addresses.registry}) as theirs:
        theirs.register_schema(
            f"{topic}-value",
            Schema('{"type": "record", "name": "SomethingElse", "fields": []}', "AVRO"),
        )
        sink = {**kafka, "registry": HttpRegistry(addresses.registry, auto_register=False)}

        def compatibility() -> str | None:
            try:
                return str(theirs.get_compatibility(f"{topic}-value"))
            except SchemaRegistryError:
                return None

        def teach_two_keys() -> None:
            with Teacher(KafkaSink(topic, **sink), rows_per_record=10) as teacher:
                teacher.write({"x": torch.arange(95), "y": torch.arange(95)})

        with pytest.raises(SchemaError, match=r"version 1"):
            teach_two_keys()
        theirs.delete_subject(f"{topic}-value")
        with pytest.raises(
            SchemaError,
            match=r"does not have this schema under \S+, and with auto.register.schemas=false",
        ) as told:
            teach_two_keys()
        assert theirs.get_subjects().count(f"{topic}-value") == 0
        text = json.loads(str(told.value).partition("as AVRO: ")[2])
        # As Confluent's registry keeps it: laid out anew, names without the namespace they are in.
        respelled = json.dumps(text, indent=2).replace('"tutelage.Tensor"', '"Tensor"')
        assert respelled.count('"Tensor"') == 2
        theirs.register_schema(f"{topic}-value", Schema(respelled, "AVRO"))
        teach_two_keys()
        student = Student(timeout_s=20)
        student.register_teacher(KafkaSource(topic, **sink))
        with student:
            assert sum(len(batch["y"]) for batch in student.knowledge(10)) == 95
        assert len(theirs.get_versions(f"{topic}-value")) == 1
        assert compatibility() != COMPATIBILITY


def test_an_unsafe_topic_is_written_with_a_line_and_a_compacted_one_is_not(
    kafka: dict[str, Any], topic_name: Names, caplog: pytest.LogCaptureFixture
) -> None:
    unsafe, compacted = topic_name("unsafe"), topic_name("compacted")
    connection = KafkaConnection(kafka["bootstrap_servers"])
    KafkaTopic(connection, unsafe).create(1, settings={"retention.ms": "60000"})
    KafkaTopic(connection, compacted).create(1, settings={"cleanup.policy": "compact"})
    with caplog.at_level(logging.WARNING):
        teach(KafkaSink(unsafe, **kafka))
    said = [record.getMessage() for record in caplog.records if unsafe in record.getMessage()]
    assert any("retention.ms=60000" in line for line in said) and any(
        "max.message.bytes=1048588" in line for line in said
    )
    with pytest.raises(ConfigurationError, match="compaction removes records"):
        teach(KafkaSink(compacted, **kafka))


@pytest.mark.parametrize("transactional", [False, True])
def test_committed_offsets_show_ordinary_tools_the_lag_and_none_at_the_end(
    kafka: dict[str, Any], topic_name: Names, transactional: bool
) -> None:
    topic, group = topic_name("lag"), topic_name("group")
    teach(KafkaSink(topic, partitions=3, transactional=transactional, **kafka), passes=2)

    def lag() -> int:
        tool = Consumer({"bootstrap.servers": kafka["bootstrap_servers"], "group.id": group})
        parts = [TopicPartition(topic, partition) for partition in range(3)]
        try:
            committed = tool.committed(parts, timeout=20)
            ends = [tool.get_watermark_offsets(part, timeout=10)[1] for part in parts]
        finally:
            tool.close()
        return sum(end - max(0, part.offset) for part, end in zip(committed, ends, strict=True))

    student = Student(timeout_s=30)
    student.register_teacher(KafkaSource(topic, group=group, **kafka))
    with student:
        for _ in student.knowledge(10):
            pass
        first = lag()
        assert first > 0
        for _ in student.knowledge(10):
            pass
    assert lag() == 0


@pytest.mark.parametrize(
    ("holder", "name"),
    [(KafkaSink, "tutelage-teacher-hello"), (KafkaSource, "tutelage-student-hello")],
)
def test_operators_see_who_a_client_is(holder: type[KafkaSink | KafkaSource], name: str) -> None:
    """The first request of a connection carries client id, software name and version: what quotas, logs and metrics go by."""
    with socket.socket() as broker:
        broker.bind(("127.0.0.1", 0))
        broker.listen()
        broker.settimeout(20)
        address = f"127.0.0.1:{broker.getsockname()[1]}"
        client = holder("hello", bootstrap_servers=address)._connection.admin()
        client.poll(0)
        accepted, _ = broker.accept()
        with accepted:
            accepted.settimeout(20)
            hello = accepted.recv(4096)
    assert name.encode() in hello
    assert b"\x09tutelage" in hello and version("tutelage").encode() in hello


def set_quota(client: str, settings: str, bootstrap_servers: str) -> None:
    """What an operator types: kafka-configs.sh --alter --entity-type clients."""
    launch = [
        find_java(),
        "-cp",
        f"{kafka_jars()}/*",
        "kafka.admin.ConfigCommand",
        "--bootstrap-server",
        bootstrap_servers,
    ]
    alter = [
        "--alter",
        "--entity-type",
        "clients",
        "--entity-name",
        client,
        "--add-config",
        settings,
    ]
    subprocess.run([*launch, *alter], check=True, capture_output=True, timeout=120)


def test_a_quota_slows_a_teacher_and_a_student_down_and_loses_nothing(
    addresses: StackAddresses,
    kafka: dict[str, Any],
    topic_name: Names,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By the client ids that docs/operations.md names. What is held back goes on by itself, and says why it is slow."""
    topic = topic_name("quota")
    for side, quota in (
        ("teacher", "producer_byte_rate=400000"),
        ("student", "consumer_byte_rate=400000"),
    ):
        set_quota(f"tutelage-{side}-{topic}", quota, addresses.bootstrap_servers)
    # 5.2 MB against the 4 MB that a window of ten seconds lets through.
    with Teacher(KafkaSink(topic, **kafka), rows_per_record=1) as teacher:
        for number in range(52):
            teacher.write({"x": torch.full((1, 25_000), float(number))})
    student = Student(timeout_s=120)
    student.register_teacher(KafkaSource(topic, **kafka))
    with student:
        assert [int(batch["x"][0, 0]) for batch in student.knowledge(1)] == list(range(52))
    for side in ("teacher", "student"):
        assert f"a quota holds client tutelage-{side}-{topic} back" in caplog.text


def test_a_broker_that_starts_again_does_not_end_a_group_s_commits(
    stack: Stack, kafka: dict[str, Any], topic_name: Names, caplog: pytest.LogCaptureFixture
) -> None:
    topic, group = topic_name("restarted"), topic_name("group")
    teach(KafkaSink(topic, partitions=1, **kafka), rows=300)
    student = Student(timeout_s=120, prefetch=1, budget_bytes=1)
    student.register_teacher(KafkaSource(topic, group=group, **kafka))
    with student:
        batches = student.knowledge(10)
        next(batches)
        stack.kill("kafka-1")
        deadline = time.monotonic() + 60
        while "was not committed" not in caplog.text and time.monotonic() < deadline:
            student.commit()
            time.sleep(0.2)
        stack.restart("kafka-1")
        stack.await_ready()
        assert sum(1 for _ in batches) == 29
    tool = Consumer({"bootstrap.servers": kafka["bootstrap_servers"], "group.id": group})
    try:
        (part,) = tool.committed([TopicPartition(topic, 0)], timeout=30)
        assert part.offset == tool.get_watermark_offsets(TopicPartition(topic, 0), timeout=20)[1]
    finally:
        tool.close()


def test_a_teacher_whose_broker_is_silent_says_that_it_waits(
    stack: Stack, kafka: dict[str, Any], topic_name: Names
) -> None:
    """What waits for a broker is no reason to kill it: it is neither silent nor stuck, and goes on by itself."""
    options = {"queue.buffering.max.messages": 2}
    teacher = Teacher(KafkaSink(topic_name("silent"), options=options, **kafka), rows_per_record=10)

    def write_more() -> None:
        for _ in range(20):
            teacher.write({"x": torch.arange(10)})

    with teacher:
        teacher.write({"x": torch.arange(10)})
        stack.pause("kafka-1")
        try:
            writing = threading.Thread(target=write_more)
            writing.start()
            deadline = time.monotonic() + 30
            while (
                "the broker to acknowledge records" not in teacher.activity.doing
                and time.monotonic() < deadline
            ):
                time.sleep(0.05)
            activity = teacher.activity
        finally:
            stack.resume("kafka-1")
        writing.join(60)
        assert (
            activity.waiting
            and activity.silent_s == 0
            and "the broker to acknowledge records" in activity.doing
        )
        assert not writing.is_alive() and "the broker" not in teacher.activity.doing


def test_a_registry_that_is_away_leaves_no_topic_behind(
    kafka: dict[str, Any], topic_name: Names
) -> None:
    topic = topic_name("unmade")
    with pytest.raises(RegistryUnavailable):
        teach(KafkaSink(topic, **{**kafka, "registry": "http://127.0.0.1:1"}))
    assert KafkaTopic(KafkaConnection(kafka["bootstrap_servers"]), topic).partitions() == 0
