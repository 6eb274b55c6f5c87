"""Partitions that come and go, are paused, have lost records, or hold no query at all."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions
from support.answering_lesson import answers_to
from support.asking import BATCH, PARTITIONS, ROWS, Answering, queries_to, rows_of, student_of
from support.replicas import written

from tutelage import (
    ConfigurationError,
    KafkaSink,
    KafkaSource,
    QueryWriter,
    RunMismatch,
    SinkExists,
    Student,
    Teacher,
)
from tutelage.producers.answers import replica as replica_module
from tutelage.producers.answers.owned import OwnedQueries
from tutelage.producers.answers.pool import Budget
from tutelage.producers.answers.settings import AnswerSettings
from tutelage.producers.answers.topic import AnswerTopic
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.group_reader import GroupReader, GroupSettings
from tutelage.transport.runs import TopicRuns
from tutelage.transport.topic_admin import KafkaTopic

pytestmark = pytest.mark.kafka


def test_more_partitions_than_queries_leave_no_replica_waiting(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("wide")
    sink = KafkaSink(f"{topic}.queries", partitions=24, **kafka)
    with QueryWriter(sink, rows_per_record=ROWS) as queries:
        queries.write({"x": torch.arange(2)})
        queries.end()
    replicas = [Answering(topic, kafka) for _ in range(3)]
    assert sum(each.done().queries for each in replicas) == 1
    sequences, _ = written(topic, kafka)
    assert sequences == {partition: [0, -1] if not partition else [-1] for partition in range(24)}


def test_a_topic_may_have_more_partitions_than_the_run(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("wider")
    admin = KafkaTopic(KafkaConnection(**kafka), f"{topic}.queries")
    admin.create(7, replication=1)
    replica = Answering(topic, kafka)
    with queries_to(topic, kafka) as queries:
        queries.write(rows_of(0))
        queries.end()
    assert replica.done().rows == BATCH


def test_a_partition_that_the_run_does_not_have_shows_that_a_newer_run_has_begun(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("raised")
    name = f"{topic}.queries"
    with queries_to(topic, kafka) as queries:
        queries.write(rows_of(0))
    connection = KafkaConnection(**kafka)
    older = TopicRuns(connection, name).newest()
    assert older is not None
    admin = AdminClient({"bootstrap.servers": kafka["bootstrap_servers"]})
    admin.create_partitions([NewPartitions(name, PARTITIONS + 1)])[name].result(20)
    while KafkaTopic(connection, name).partitions() == PARTITIONS:
        time.sleep(0.1)
    sink = KafkaSink(name, partitions=PARTITIONS + 1, **kafka)
    with QueryWriter(sink, rows_per_record=ROWS, new_run=True) as queries:
        queries.write({"x": torch.arange((PARTITIONS + 1) * ROWS)})
        queries.end()
    answers = AnswerTopic(connection, topic, KafkaSink(topic, **kafka).settings, older.stream)
    try:
        answers.open()
        settings = AnswerSettings(group=GroupSettings(name="raised"), budget=Budget(rows=ROWS))
        owned = OwnedQueries(connection, name, older, answers, settings)
        assert not owned.followed
        # The replica is given this partition alone, which holds a query and the end of the newer run.
        (offset,) = owned.begin_at({PARTITIONS: ""}).values()
        assert offset == 1
        (message,) = TopicRuns(connection, name).messages({PARTITIONS: (offset, 2)})[PARTITIONS]
        assert owned.take(message) is None
        assert owned.followed
    finally:
        answers.close()


def test_queries_behind_those_that_retention_took_are_answered(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("deleted")
    first = Answering(topic, kafka)
    with queries_to(topic, kafka) as queries:
        for step in range(5):
            queries.write(rows_of(step))
        source = KafkaSource(topic, **kafka)
        student = Student(timeout_s=60)
        student.register_teacher(source)
        with student:
            for _ in zip(range(5), student.knowledge(BATCH), strict=False):
                pass
        admin = KafkaTopic(KafkaConnection(**kafka), f"{topic}.queries")
        parts = [TopicPartition(f"{topic}.queries", number, 3) for number in range(PARTITIONS)]
        for future in admin.admin.delete_records(parts).values():
            future.result(20)
        # Another group has no member that knows where it was.
        second = Answering(topic, kafka, group=f"{topic}-second")
        time.sleep(3)
        queries.write(rows_of(5))
        queries.end()
    stats = second.done()
    # What the first group answered meanwhile was read, and dropped.
    assert stats.queries + stats.dropped >= PARTITIONS
    first.done()
    sequences, _ = written(topic, kafka)
    assert sum(len(each) for each in sequences.values()) == 6 * BATCH // ROWS + PARTITIONS


def test_a_replica_that_was_paused_goes_on_when_its_partitions_come_back(
    kafka: dict[str, Any], topic_name: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = topic_name("paused")
    monkeypatch.setattr(replica_module, "_MOST_WAITING_BYTES", 2000)

    calls, shared = itertools.count(), threading.Event()

    def slow(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        if next(calls) > 20:
            # There is something left to share, whenever the other one comes.
            shared.wait(60)
        return {"y": answers_to(batch["x"])}

    with queries_to(topic, kafka) as queries:
        for step in range(60):
            queries.write(rows_of(step))
        queries.end()
    first = Answering(topic, kafka, slow, max_rows=2)

    class LeavesError(Exception):
        pass

    of_other = itertools.count()

    def leaves(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        shared.set()
        if next(of_other) > 3:
            raise LeavesError
        return {"y": answers_to(batch["x"])}

    other = Answering(topic, kafka, leaves, max_rows=2)
    with student_of(topic, kafka) as student:
        found = torch.cat([batch["y"].clone() for batch in student.knowledge(BATCH)])
    assert torch.equal(found, answers_to(torch.arange(60 * BATCH)))
    first.done()
    with pytest.raises(LeavesError):
        other.done()


@pytest.fixture
def revisions(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> Iterator[tuple[str, list[Answering]]]:
    topic = topic_name("mixed")
    replicas = [Answering(topic, kafka, revision=revision) for revision in ("1", "2")]
    with queries_to(topic, kafka) as queries:
        for step in range(5):
            queries.write(rows_of(step))
        queries.end()
    yield topic, replicas


def test_replicas_of_different_models_that_start_together_do_not_mix(
    revisions: tuple[str, list[Answering]], kafka: dict[str, Any]
) -> None:
    topic, replicas = revisions
    with student_of(topic, kafka) as student:
        found = torch.cat([batch["y"].clone() for batch in student.knowledge(BATCH)])
    assert torch.equal(found, answers_to(torch.arange(5 * BATCH)))
    for each in replicas:
        each.join(60)
    errors = [each.error for each in replicas]
    assert sorted(type(error) is SinkExists for error in errors) == [False, True], errors
    assert not any(isinstance(error, RunMismatch) for error in errors)


def test_every_device_gets_queries_as_they_come(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("devices")
    together, begun = threading.Barrier(2), threading.Event()

    def meets(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        begun.set()
        # Two calls at once, or it never goes on.
        together.wait(30)
        return {"y": answers_to(batch["x"])}

    replica = Answering(topic, kafka, meets, devices=["cpu", "cpu"])
    with queries_to(topic, kafka) as queries:
        queries.write({"x": torch.arange(ROWS)})
        assert begun.wait(60)
        queries.write({"x": torch.arange(ROWS, 2 * ROWS)})
        queries.end()
    assert replica.done().calls == 2


def test_a_replica_that_loses_the_first_query_learns_what_answers_hold_from_others(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("first")
    begun, goes_on = threading.Event(), threading.Event()

    def waits(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        begun.set()
        goes_on.wait(60)
        return {"y": answers_to(batch["x"])}

    slow = Answering(topic, kafka, waits, group=f"{topic}-slow")
    with queries_to(topic, kafka) as queries:
        queries.write(rows_of(0))
        queries.end()
    assert begun.wait(60)
    replica = slow.teacher.replica
    assert replica is not None
    replica._queries.owns = lambda query: False  # type: ignore[method-assign]
    fast = Answering(topic, kafka)
    assert fast.done().rows == BATCH
    goes_on.set()
    stats = slow.done()
    assert stats.queries == 0
    assert stats.discarded >= BATCH // ROWS


def test_a_teacher_that_was_started_answers_nothing(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("started")
    with (
        Teacher(KafkaSink(topic, **kafka)) as teacher,
        pytest.raises(ConfigurationError, match="a Teacher that answers is not started before"),
    ):
        teacher.answer(lambda batch: batch, f"{topic}.queries")


def test_the_runs_first_query_may_come_after_all_others(
    kafka: dict[str, Any], topic_name: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, taken = topic_name("late"), GroupReader.take
    late: list[Any] = []
    polls = itertools.count()

    def first_comes_last(self: GroupReader, most: int, timeout_s: float) -> list[Any]:
        messages = taken(self, most, timeout_s)
        late.extend(message for message in messages if not message.partition())
        others = [message for message in messages if message.partition()]
        if others or next(polls) < 500:
            # Nothing of partition 0 while the replica calls its model for others.
            return others
        found = [*late]
        late.clear()
        return found

    monkeypatch.setattr(GroupReader, "take", first_comes_last)
    sink = KafkaSink(f"{topic}.queries", partitions=12, **kafka)
    with QueryWriter(sink, rows_per_record=ROWS) as queries:
        queries.write({"x": torch.arange(12 * ROWS)})
        queries.end()
    # One query a call: more calls than wait for one another otherwise.
    stats = Answering(topic, kafka, max_rows=ROWS).done()
    assert (stats.queries, stats.calls) == (12, 12)


def test_queries_that_wait_for_the_first_answer_wait_in_the_topic(
    kafka: dict[str, Any], topic_name: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, go = topic_name("waiting"), threading.Event()

    def held(batch: dict[str, Any]) -> dict[str, Any]:
        if (batch["x"] == 0).any():
            assert go.wait(200)
        return {"y": answers_to(batch["x"])}

    with queries_to(topic, kafka) as queries:
        queries.write({"x": torch.arange(1000 * ROWS)})
        queries.end()
    # About 20 queries; what was polled last may be on top of them.
    monkeypatch.setattr(replica_module, "_MOST_WAITING_BYTES", 20 * 2 * 8 * ROWS)
    replicas = [Answering(topic, kafka, held, max_rows=ROWS) for _ in range(2)]
    most, deadline = 0, time.monotonic() + 60
    watched = [each.teacher for each in replicas]
    while not all(each.replica is not None and each.replica.owned for each in watched):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for _ in range(60):
        most = max(most, *(each.replica.waiting[0] for each in watched if each.replica))
        time.sleep(0.05)
    go.set()
    assert sum(each.done().queries for each in replicas) >= 1000
    assert 20 <= most <= 20 + 2 * replica_module._MESSAGES_AT_ONCE
    sequences, _ = written(topic, kafka)
    assert sum(len(each) for each in sequences.values()) == 1000 + PARTITIONS


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_what_a_member_notes_while_it_leaves_is_told_to_the_next(
    kafka: dict[str, Any], topic_name: Callable[[str], str], protocol: str
) -> None:
    topic = topic_name(f"notes-{protocol}")
    connection = KafkaConnection(**kafka)
    KafkaTopic(connection, topic).create(2, replication=1)
    settings = GroupSettings(name=topic, protocol=protocol)
    told: list[dict[int, str]] = []

    def member(note: str) -> None:
        """Get all partitions, note something while working and while leaving, and leave."""

        def begin_at(notes: Mapping[int, str]) -> dict[int, int]:
            told.append(dict(notes))
            return dict.fromkeys(notes, 0)

        def gone(partitions: Sequence[int], lost: bool) -> None:
            reader.commit({each: (0, f"{note} left {each}") for each in partitions}, wait=True)

        reader = GroupReader(connection, topic, settings, begin_at=begin_at, gone=gone)
        deadline = time.monotonic() + 60
        while len(reader.owned) < 2:
            assert time.monotonic() < deadline
            reader.take(1, 0.1)
        reader.commit(dict.fromkeys(reader.owned, (0, f"{note} works")), wait=True)
        closing = threading.Thread(target=reader.close, daemon=True)
        closing.start()
        closing.join(60)
        assert not closing.is_alive(), "leaving ends"

    for note in ("first", "second"):
        member(note)
    assert {number: text for notes in told[:1] for number, text in notes.items()} == {0: "", 1: ""}
    last = {number: text for notes in told[1:] for number, text in notes.items()}
    assert last == {0: "first left 0", 1: "first left 1"}
