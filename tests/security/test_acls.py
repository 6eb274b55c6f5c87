"""What docs/security.md grants, and nothing else: each attempt at more is refused, with a line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from confluent_kafka import Producer
from confluent_kafka.admin import AclOperation, NewTopic, ResourceType
from security.secured import Secured

from tutelage import (
    KafkaSink,
    KafkaSource,
    OnPolicy,
    QueryWriter,
    Student,
    Teacher,
    WaitTimeout,
)
from tutelage.schemas.errors import AccessDenied, TutelageError
from tutelage.transport.local_registry import LocalRegistry

TEACHER = (
    AclOperation.WRITE,
    AclOperation.READ,
    AclOperation.DESCRIBE,
    AclOperation.DESCRIBE_CONFIGS,
    AclOperation.CREATE,
)
STUDENT = (AclOperation.READ, AclOperation.DESCRIBE)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "security.md"


def test_the_page_grants_what_is_tested_here() -> None:
    granted: dict[tuple[str, str], set[str]] = {}
    for line in re.findall(r"^kafka-acls\.sh .*$", PAGE.read_text(), re.MULTILINE):
        user = re.search(r"--allow-principal User:(\S+)", line)
        kind = re.search(r"--(topic|group) \S+", line)
        assert user is not None and kind is not None
        granted[user[1], kind[1]] = set(re.findall(r"--operation (\w+)", line))

    def named(operations: tuple[AclOperation, ...]) -> set[str]:
        return {operation.name.title().replace("_", "") for operation in operations}

    assert granted == {
        ("teacher1", "topic"): named(TEACHER),
        ("student", "topic"): named(STUDENT),
        ("student", "group"): {"Read"},
    }


class House:
    """One topic of a teacher of its own, and what the three users may do to it."""

    def __init__(self, locked: Secured) -> None:
        self.locked = locked
        self.registry = LocalRegistry()
        locked.allow("teacher1", ResourceType.TOPIC, "own", *TEACHER, prefixed=True)
        locked.allow("student", ResourceType.TOPIC, "own", *STUDENT, prefixed=True)
        locked.allow("student", ResourceType.GROUP, "student", AclOperation.READ, prefixed=True)
        locked.admin.create_topics([NewTopic("own-empty", 1, 1)])["own-empty"].result(20)

    def kafka(self, user: str) -> dict[str, Any]:
        """How a user comes in."""
        return {
            "bootstrap_servers": self.locked.address("scram"),
            "registry": self.registry,
            "options": self.locked.scram(user),
        }

    def teach(self, topic: str, user: str, **more: Any) -> None:
        """Write ten numbers."""
        with Teacher(KafkaSink(topic, **self.kafka(user), **more)) as teacher:
            teacher.write({"x": torch.arange(10)})

    def learn(self, topic: str, user: str, group: str | None = None) -> list[int]:
        """Read them."""
        student = Student(timeout_s=15)
        student.register_teacher(KafkaSource(topic, group=group, **self.kafka(user)))
        with student:
            return [number for batch in student.knowledge(5) for number in batch["x"].tolist()]


@pytest.fixture(scope="module")
def house(locked: Secured) -> House:
    made = House(locked)
    made.teach("own-1", "teacher1")
    made.teach("other-1", "admin")
    return made


def test_a_teacher_writes_its_own_and_a_student_reads_it(house: House) -> None:
    assert house.learn("own-1", "student") == list(range(10))
    assert house.learn("own-1", "student", group="student-1") == list(range(10))


def test_a_teacher_starts_again_with_its_rights(house: House) -> None:
    teacher = Teacher(KafkaSink("own-2", **house.kafka("teacher1")), passes=2, rows_per_record=5)
    teacher.start()
    teacher.write({"x": torch.arange(10)})
    teacher.end_pass()
    teacher.close()
    with Teacher(
        KafkaSink("own-2", **house.kafka("teacher1")), passes=2, rows_per_record=5
    ) as teacher:
        for _ in range(2):
            teacher.write({"x": torch.arange(10)})
            teacher.end_pass()
    assert house.learn("own-2", "student") == list(range(10))


@pytest.mark.parametrize("user", ["teacher1", "student", "stranger"])
def test_nobody_writes_what_is_another_s(house: House, user: str) -> None:
    with pytest.raises(AccessDenied, match="(?i)authorization failed.*docs/security.md"):
        house.teach("other-1", user)


@pytest.mark.parametrize("user", ["student", "stranger"])
def test_a_student_and_a_stranger_write_nothing(house: House, user: str) -> None:
    with pytest.raises(AccessDenied, match="(?i)authorization failed.*docs/security.md"):
        house.teach("own-new", user)
    with pytest.raises(AccessDenied, match="(?i)authorization failed.*docs/security.md"):
        house.teach("own-empty", user, create=False)
    # And not by going around us either.
    failed: list[Any] = []
    producer = Producer(
        {"bootstrap.servers": house.locked.address("scram"), **house.locked.scram(user)}
    )
    producer.produce(
        "own-1", b"forged", partition=0, on_delivery=lambda error, message: failed.append(error)
    )
    assert producer.flush(20) == 0 and "authorization failed" in str(failed[0])
    producer.close()


@pytest.mark.parametrize(
    ("user", "topic"), [("stranger", "own-1"), ("student", "other-1"), ("stranger", "nowhere")]
)
def test_nobody_reads_what_is_not_his_to_read(house: House, user: str, topic: str) -> None:
    with pytest.raises(AccessDenied, match="(?i)authorization failed.*docs/security.md"):
        house.learn(topic, user)


def test_a_student_commits_to_its_own_group_only(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    assert house.learn("own-1", "student", group="somebody-elses") == list(range(10))
    assert "was not committed" in caplog.text and "somebody-elses" in caplog.text


def test_rights_that_are_taken_away_end_a_student_that_reads(house: House, locked: Secured) -> None:
    topic = "taken-1"
    locked.allow("teacher1", ResourceType.TOPIC, topic, *TEACHER)
    locked.allow("student", ResourceType.TOPIC, topic, *STUDENT)
    teacher = Teacher(KafkaSink(topic, **house.kafka("teacher1")), passes=2)
    teacher.start()
    teacher.write({"x": torch.arange(10)})
    teacher.end_pass()
    teacher.close()
    student = Student(timeout_s=60)
    student.register_teacher(KafkaSource(topic, **house.kafka("student")))
    with student, pytest.raises(TutelageError, match="authorization failed"):
        assert sum(len(batch["x"]) for batch in student.knowledge(5)) == 10
        locked.deny("student", topic)
        list(student.knowledge(5))


def test_a_transactional_teacher_needs_a_right_of_its_own(house: House, locked: Secured) -> None:
    with pytest.raises(
        AccessDenied, match="Transactional Id authorization failed|authorization failed"
    ):
        house.teach("own-transactional", "teacher1", transactional=True)
    locked.allow(
        "teacher1",
        ResourceType.TRANSACTIONAL_ID,
        "tutelage.own",
        AclOperation.WRITE,
        AclOperation.DESCRIBE,
        prefixed=True,
    )
    house.teach("own-transactional", "teacher1", transactional=True)
    assert house.learn("own-transactional", "student") == list(range(10))


def test_who_may_not_read_settings_is_told_that_they_are_not_checked(
    house: House, locked: Secured, caplog: pytest.LogCaptureFixture
) -> None:
    locked.allow(
        "teacher1",
        ResourceType.TOPIC,
        "unseen-1",
        AclOperation.WRITE,
        AclOperation.READ,
        AclOperation.DESCRIBE,
    )
    with pytest.raises(AccessDenied, match="creating topic"):
        house.teach("unseen-1", "teacher1")
    locked.admin.create_topics([NewTopic("unseen-1", 1, 1)])["unseen-1"].result(20)
    house.teach("unseen-1", "teacher1")
    assert "cannot be checked without the ACL DescribeConfigs" in caplog.text


def test_replicas_need_the_right_to_read_in_their_group(house: House, locked: Secured) -> None:
    queries = KafkaSink("own-asked.queries", partitions=1, **house.kafka("teacher1"))
    with QueryWriter(queries, rows_per_record=2) as writer:
        writer.write({"x": torch.arange(2)})
        writer.end()

    def answer() -> int:
        teacher = Teacher(KafkaSink("own-asked", **house.kafka("teacher1")))
        return teacher.answer(
            lambda batch: {"y": batch["x"]}, "own-asked.queries", timeout_s=30
        ).stats.rows

    with pytest.raises(
        AccessDenied,
        match=r"(?i)group tutelage-own-asked: .*authorization failed.*docs/security.md",
    ):
        answer()
    # Who may not ask who is in the group is told that, and still that nobody answered.
    student = Student(sample_id="query_id", timeout_s=2)
    for topic in ("own-asked.queries", "own-asked"):
        student.register_teacher(KafkaSource(topic, **house.kafka("student")))
    queries = KafkaSink("own-asked.queries", partitions=1, **house.kafka("teacher1"))
    with (
        QueryWriter(queries, rows_per_record=2) as writer,
        student,
        pytest.raises(WaitTimeout, match="(?i)group tutelage-own-asked: .*authorization failed"),
    ):
        list(OnPolicy(student, writer, lambda step: {}, batch_size=2, steps=1))
    locked.allow("teacher1", ResourceType.GROUP, "tutelage-own", AclOperation.READ, prefixed=True)
    assert answer() == 2
