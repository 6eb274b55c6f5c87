"""The lag of the group of replicas, by which they are scaled: what has no answer, and 0 in the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from confluent_kafka import Consumer, Producer, TopicPartition
from support.answering_lesson import model
from support.asking import BATCH, PARTITIONS, ROWS, Answering, queries_to, rows_of
from support.lag import lags, wanted_replicas

from tutelage import ConfigurationError, KafkaSink, QueryWriter, Teacher, WaitTimeout
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.local_registry import LocalRegistry
from tutelage.transport.topic_admin import KafkaTopic

pytestmark = pytest.mark.kafka
ASKED = BATCH // ROWS
TRIGGER = {
    "offsetResetPolicy": "earliest",
    "lagThreshold": "1",
    "activationLagThreshold": "0",
    "limitToPartitionsWithLag": "true",
}


@pytest.fixture
def servers(kafka: dict[str, Any]) -> str:
    return str(kafka["bootstrap_servers"])


def ask(topic: str, kafka: dict[str, Any], **options: Any) -> None:
    with queries_to(topic, kafka, **options) as queries:
        queries.write(rows_of(0))
        queries.end()


def reaches(servers: str, topic: str, group: str, wanted: list[int]) -> None:
    """Wait until the lag is that; commits are not waited for by a replica that goes on."""
    deadline = time.monotonic() + 60
    while (found := lags(servers, f"{topic}.queries", group)) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def test_the_lag_is_what_has_no_answer_and_zero_in_the_end(
    kafka: dict[str, Any], topic_name: Callable[[str], str], servers: str
) -> None:
    topic = topic_name("lag")
    group, go = f"tutelage-{topic}", threading.Event()

    def held(batch: dict[str, Any]) -> dict[str, Any]:
        assert go.wait(120)
        return model(batch)

    ask(topic, kafka)
    # Nothing was ever committed: each partition has one query and the end.
    assert lags(servers, f"{topic}.queries", group, TRIGGER) == [2] * PARTITIONS
    assert lags(servers, f"{topic}.queries", group, {"offsetResetPolicy": "latest"}) == [1] * 4
    never = {**TRIGGER, "scaleToZeroOnInvalidOffset": "true"}
    assert sum(lags(servers, f"{topic}.queries", group, never)) == 0
    assert wanted_replicas([2] * PARTITIONS, TRIGGER, 9) == PARTITIONS
    replica = Answering(topic, kafka, held)
    while not (replica.teacher.replica and replica.teacher.replica.stats.calls):
        assert replica.is_alive()
        time.sleep(0.05)
    reaches(servers, topic, group, [2] * PARTITIONS)
    go.set()
    assert replica.done().queries == ASKED
    assert lags(servers, f"{topic}.queries", group, TRIGGER) == [0] * PARTITIONS
    assert wanted_replicas([0] * PARTITIONS, TRIGGER, 9) == 0


def test_what_a_dead_replica_answered_and_did_not_commit_is_no_lag_for_the_next(
    kafka: dict[str, Any], topic_name: Callable[[str], str], servers: str
) -> None:
    topic = topic_name("uncommitted")
    ask(topic, kafka)
    Answering(topic, kafka).done()
    # Another group has committed nothing, as one whose replica died within a second of its answers.
    other = f"{topic}-other"
    assert lags(servers, f"{topic}.queries", other) == [2] * PARTITIONS
    assert Answering(topic, kafka, group=other).done().queries == 0
    assert lags(servers, f"{topic}.queries", other) == [0] * PARTITIONS


def test_a_replica_that_comes_when_all_is_answered_reads_one_record_of_each_partition(
    kafka: dict[str, Any], topic_name: Callable[[str], str], servers: str
) -> None:
    topic = topic_name("late")
    with queries_to(topic, kafka) as queries:
        for step in range(5):
            queries.write(rows_of(step))
        queries.end()
    assert Answering(topic, kafka).done().queries == 5 * ASKED
    # Each partition has five queries and the end. What is read and needs no answer is dropped.
    late = Answering(topic, kafka).done()
    assert (late.queries, late.dropped) == (0, PARTITIONS)
    assert lags(servers, f"{topic}.queries", f"tutelage-{topic}") == [0] * PARTITIONS


def until_written(topic: str, servers: str) -> None:
    deadline = time.monotonic() + 60
    while sum(lags(servers, f"{topic}.queries", "nobody")) != 14 // ROWS + 7 + ASKED:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def write_again(topic: str, kafka: dict[str, Any]) -> None:
    """Write the last record of each partition once more, as a zombie would."""
    source = Consumer({"bootstrap.servers": kafka["bootstrap_servers"], "group.id": "copies"})
    target = Producer({"bootstrap.servers": kafka["bootstrap_servers"]})
    for number in range(PARTITIONS):
        part = TopicPartition(f"{topic}.queries", number)
        part.offset = source.get_watermark_offsets(part, timeout=20)[1] - 1
        source.assign([part])
        message = source.poll(20)
        assert message is not None and message.error() is None
        target.produce(
            f"{topic}.queries", message.value(), message.key(), partition=number,
            headers=message.headers(),
        )  # fmt: skip
    assert target.flush(20) == 0
    source.close()
    target.close()


def test_records_that_need_no_answer_are_no_lag(
    kafka: dict[str, Any], topic_name: Callable[[str], str], servers: str
) -> None:
    topic = topic_name("needless")
    group = f"tutelage-{topic}"
    KafkaTopic(KafkaConnection(**kafka), f"{topic}.queries").create(7, replication=1)
    # An older run, in more partitions, to which nobody ever answered.
    older = KafkaSink(f"{topic}.queries", partitions=7, **kafka)
    with QueryWriter(older, rows_per_record=ROWS) as queries:
        queries.write({"x": torch.arange(14)})
        queries.end()
    with queries_to(topic, kafka, new_run=True) as queries:
        queries.write(rows_of(0))
        until_written(topic, servers)
        write_again(topic, kafka)
        queries.end()
    assert lags(servers, f"{topic}.queries", group) == [5] * PARTITIONS + [2] * 3
    assert Answering(topic, kafka).done().queries == ASKED
    assert lags(servers, f"{topic}.queries", group) == [0] * 7


def test_a_replica_that_hands_its_partitions_over_has_committed_what_it_answered(
    kafka: dict[str, Any],
    topic_name: Callable[[str], str],
    servers: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # But for what it tells when it ends or gives partitions away, it commits once and never again.
    monkeypatch.setattr("tutelage.producers.answers.replica._COMMIT_EVERY_S", 1e6)
    topic = topic_name("handed")
    with queries_to(topic, kafka) as queries:
        replica = Answering(topic, kafka)
        queries.write(rows_of(0))
        while not (replica.teacher.replica and replica.teacher.replica.stats.queries == ASKED):
            assert replica.is_alive()
            time.sleep(0.05)
        second = Answering(topic, kafka)
        while not (second.teacher.replica and len(second.teacher.replica.owned) == 2):
            assert second.is_alive()
            time.sleep(0.05)
        handed = second.teacher.replica.owned
        found = lags(servers, f"{topic}.queries", f"tutelage-{topic}")
        assert [found[number] for number in handed] == [0, 0]
        queries.end()
    assert replica.done().queries + second.done().queries == ASKED
    assert sum(lags(servers, f"{topic}.queries", f"tutelage-{topic}")) == 0


def test_a_replica_that_stays_answers_the_next_run_too(
    kafka: dict[str, Any], topic_name: Callable[[str], str], servers: str
) -> None:
    topic = topic_name("stays")
    ask(topic, kafka)
    replica = Answering(topic, kafka, stay=True, timeout_s=15.0)
    reaches(servers, topic, f"tutelage-{topic}", [0] * PARTITIONS)
    first = replica.teacher.replica
    ask(topic, kafka, new_run=True)
    deadline = time.monotonic() + 60
    while replica.teacher.replica in (None, first):
        assert replica.is_alive() and time.monotonic() < deadline
        time.sleep(0.05)
    reaches(servers, topic, f"tutelage-{topic}", [0] * PARTITIONS)
    assert replica.teacher.replica is not None and replica.teacher.replica.stats.queries == ASKED
    # No other run begins.
    with pytest.raises(WaitTimeout, match=f"a query in topic {topic}.queries"):
        replica.done()


def test_a_replica_of_one_run_waits_for_no_other() -> None:
    teacher = Teacher(KafkaSink("t", bootstrap_servers="127.0.0.1:1", registry=LocalRegistry()))
    with pytest.raises(ConfigurationError, match="names the run to answer, and stay=True waits"):
        teacher.answer(model, "t.queries", run="a", stay=True)
