"""What a topic, a registry and a partner are is checked while they are used: recreated topics, changed schemas, old answers."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.cimpl import NewTopic

from tutelage import KafkaSink, KafkaSource, Student, Teacher
from tutelage.schemas.errors import (
    ConfigurationError,
    DeliveryFailed,
    SchemaError,
    TopicIdentityError,
)
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.http_registry import HttpRegistry
from tutelage.transport.topic_admin import KafkaTopic

pytestmark = pytest.mark.kafka
Names = Callable[[str], str]


def admin_of(kafka: dict[str, Any]) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka["bootstrap_servers"]})


def recreate(kafka: dict[str, Any], topic: str, partitions: int = 1) -> None:
    """Delete a topic and make it again, as soon as it is gone."""
    admin = admin_of(kafka)
    admin.delete_topics([topic])[topic].result(20)
    asked = KafkaTopic(KafkaConnection(**kafka), topic)
    deadline = time.monotonic() + 20
    while asked.partitions() and time.monotonic() < deadline:
        time.sleep(0.05)
    while True:
        try:
            admin.create_topics([NewTopic(topic, partitions)])[topic].result(20)
            return
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def student_of(topic: str, kafka: dict[str, Any], **options: Any) -> Student:
    student = Student(**{"timeout_s": 20, **options})
    student.register_teacher(KafkaSource(topic, **kafka))
    return student


def test_a_topic_that_is_recreated_while_its_teacher_writes_ends_the_teacher(
    kafka: dict[str, Any], topic_name: Names
) -> None:
    topic = topic_name("recreated")

    def inputs() -> Iterator[torch.Tensor]:
        for number in range(2000):
            if number == 20:
                recreate(kafka, topic)
            time.sleep(0.01)
            yield torch.full((4,), number)

    with (
        pytest.raises((TopicIdentityError, DeliveryFailed), match="recreated"),
        Teacher(KafkaSink(topic, partitions=1, **kafka), rows_per_record=4) as teacher,
    ):
        teacher.serve(lambda batch: {"x": batch}, inputs)


def test_a_teacher_does_not_finish_in_a_topic_that_was_recreated(
    kafka: dict[str, Any], topic_name: Names
) -> None:
    topic = topic_name("last-moment")
    with (
        pytest.raises(TopicIdentityError, match="recreated while the teacher wrote"),
        Teacher(KafkaSink(topic, partitions=1, **kafka), rows_per_record=4) as teacher,
    ):
        teacher.write({"x": torch.arange(8)})
        time.sleep(0.5)
        recreate(kafka, topic)
        teacher.end_pass()


def test_the_student_of_a_recreated_topic_is_told_that_and_not_to_raise_retention(
    kafka: dict[str, Any], topic_name: Names
) -> None:
    topic = topic_name("reread")
    teacher = Teacher(KafkaSink(topic, partitions=1, **kafka), rows_per_record=4)
    teacher.start()
    teacher.write({"x": torch.arange(400)})
    time.sleep(0.5)
    with student_of(topic, kafka, timeout_s=60) as student:
        batches = student.knowledge(4)
        for _ in range(100):
            next(batches)
        recreate(kafka, topic)
        began = time.monotonic()
        with pytest.raises(TopicIdentityError, match="recreated while it was read"):
            next(batches)
        assert time.monotonic() - began < 60
    teacher.close()


def test_compaction_that_is_turned_on_is_named_by_both_sides(
    kafka: dict[str, Any], topic_name: Names
) -> None:
    topic = topic_name("compacted")
    teacher = Teacher(KafkaSink(topic, partitions=1, **kafka), rows_per_record=4)
    teacher.start()
    teacher.write({"x": torch.arange(8)})
    with student_of(topic, kafka, timeout_s=60) as student:
        batches = student.knowledge(4)
        next(batches), next(batches)
        entry = ConfigEntry(
            "cleanup.policy", "compact", incremental_operation=AlterConfigOpType.SET
        )
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
        admin = admin_of(kafka)
        admin.incremental_alter_configs([resource])[resource].result(20)
        time.sleep(1)
        with pytest.raises(DeliveryFailed, match="cleanup.policy=compact"):
            teacher.write({"x": torch.arange(4)})
            teacher.end_pass()
        with pytest.raises(ConfigurationError, match="cleanup.policy=compact"):
            next(batches)
    teacher.close()


class OtherSchema(HttpRegistry):
    """A registry that was reset: it answers another schema of the same layout under the same id."""

    def schema(self, schema_id: int) -> str:
        return super().schema(schema_id).replace('"float32"', '"int32"')


class NoSchema(HttpRegistry):
    """A registry that lost a schema."""

    def schema(self, schema_id: int) -> str:
        return super().schema(schema_id + 1_000_000)


def test_a_schema_that_the_registry_gives_otherwise_is_called_that(
    kafka: dict[str, Any], topic_name: Names
) -> None:
    topic = topic_name("otherwise")
    with Teacher(KafkaSink(topic, partitions=1, **kafka)) as teacher:
        teacher.write({"logits": torch.rand(8, 3)})
    for registry, words in (
        (OtherSchema, "another schema now"),
        (NoSchema, "no longer has schema"),
    ):
        changed = {**kafka, "registry": registry(kafka["registry"])}
        with student_of(topic, changed) as student, pytest.raises(SchemaError, match=words):
            next(student.knowledge(4))
        with (
            pytest.raises(SchemaError, match=words),
            Teacher(KafkaSink(topic, **changed), run_id="x"),
        ):
            pass


ANSWERS = """
import sys, torch
from tutelage import KafkaSink, Teacher
with Teacher(KafkaSink(sys.argv[1], bootstrap_servers=sys.argv[2], registry=sys.argv[3])) as teacher:
    while True:
        question = teacher.recv(timeout_s=60)
        print(question, flush=True)
        teacher.send({"answer": 2 * question["round"]})
"""


@pytest.mark.parametrize("by", ["ask", "send and recv"])
def test_a_killed_teacher_answers_no_question_twice_and_no_answer_is_taken_for_another(
    kafka: dict[str, Any], topic_name: Names, tmp_path: Path, by: str
) -> None:
    topic = topic_name("asks")

    def teacher() -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-c",
            ANSWERS,
            topic,
            kafka["bootstrap_servers"],
            kafka["registry"],
        ]
        return subprocess.Popen(
            command,
            env={**os.environ},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    student = student_of(topic, kafka)
    student.start()
    answering = teacher()
    said: list[str] = []
    try:
        for number in range(12):
            if number in (4, 8):
                answering.kill()
                said += (answering.communicate()[0] or "").splitlines()
                answering = teacher()
            if by == "ask":
                answer = student.ask({"round": number}, timeout_s=60)
            else:
                student.send({"round": number})
                answer = student.recv(0, timeout_s=60)
            assert answer == {"answer": 2 * number}
    finally:
        answering.kill()
        said += (answering.communicate()[0] or "").splitlines()
        student.close()
    assert said == [str({"round": number}) for number in range(12)]


def test_a_restarted_student_is_not_given_the_answers_of_the_one_before(
    kafka: dict[str, Any], topic_name: Names
) -> None:
    topic = topic_name("again")
    stop = threading.Event()

    def answer() -> None:
        with Teacher(KafkaSink(topic, **kafka)) as teacher:
            teacher.send("for every student")
            while not stop.is_set():
                try:
                    question = teacher.recv(timeout_s=1)
                except Exception:
                    continue
                teacher.send(2 * question)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        for first in (10, 20):
            with student_of(topic, kafka) as student:
                assert student.recv(0, timeout_s=30) == "for every student"
                for number in range(first, first + 3):
                    student.send(number)
                assert [student.recv(0, timeout_s=30) for _ in range(2)] == [
                    2 * first,
                    2 * first + 2,
                ]
                assert student.ask(7, timeout_s=30) == 14
    finally:
        stop.set()
        thread.join(30)
