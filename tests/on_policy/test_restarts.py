"""Programs that are killed between any two steps of asking, and runs of queries one behind the other."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from support.answering_lesson import answers_to
from support.asking import (
    BATCH,
    PARTITIONS,
    ROWS,
    Answering,
    queries_to,
    rows_of,
    set_topic,
    student_of,
)

from tutelage import (
    ConfigurationError,
    DeliveryFailed,
    KafkaSink,
    KafkaSource,
    OnPolicy,
    QueryWriter,
    RunMismatch,
    SchemaError,
    SinkExists,
    Student,
    WaitTimeout,
)

pytestmark = pytest.mark.kafka
STEPS = 5


def finish(topic: str, kafka: dict[str, Any], state: Path | None = None) -> OnPolicy:
    """Start the program again, and train to the end."""
    with queries_to(topic, kafka) as queries, student_of(topic, kafka) as student:
        if state is not None:
            student.load(state)
        loop = OnPolicy(student, queries, rows_of, batch_size=BATCH, steps=STEPS, max_policy_lag=2)
        first = loop.step
        for step, batch in enumerate(loop, start=first):
            assert torch.equal(batch["x"], rows_of(step)["x"])
            assert torch.equal(batch["y"], answers_to(batch["x"]))
        assert loop.step == STEPS
        assert queries.ended
        return loop


def test_a_program_that_was_killed_in_a_step_writes_only_the_rest_of_it(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("half")
    with queries_to(topic, kafka) as queries:
        queries.write({**rows_of(0), "policy_version": torch.zeros(BATCH, dtype=torch.int64)})
        half = {"x": rows_of(1)["x"][:4], "policy_version": torch.zeros(4, dtype=torch.int64)}
        queries.write(half)
    replica = Answering(topic, kafka)
    assert finish(topic, kafka).generated_rows == STEPS * BATCH - BATCH - 4
    assert replica.done().rows == STEPS * BATCH


def test_a_program_that_was_killed_in_its_last_steps_starts_again(
    kafka: dict[str, Any], topic_name: Callable[[str], str], tmp_path: Path
) -> None:
    topic, state = topic_name("last"), tmp_path / "state.json"
    replica = Answering(topic, kafka)
    with queries_to(topic, kafka) as queries, student_of(topic, kafka) as student:
        loop = OnPolicy(student, queries, rows_of, batch_size=BATCH, steps=STEPS, max_policy_lag=2)
        for _ in itertools.islice(loop, STEPS - 1):
            student.save(state)
        assert queries.ended
    assert finish(topic, kafka, state).generated_rows == 0
    # A finished program that is started again has nothing to do.
    assert finish(topic, kafka).generated_rows == 0
    replica.done()


@pytest.mark.parametrize("steps_left", [True, False])
def test_an_end_that_was_not_written_is_written_at_the_next_start(
    kafka: dict[str, Any], topic_name: Callable[[str], str], tmp_path: Path, steps_left: bool
) -> None:
    topic, state = topic_name("endless"), tmp_path / "state.json"
    replica = Answering(topic, kafka)
    with queries_to(topic, kafka) as queries, student_of(topic, kafka) as student:
        for step in range(STEPS):
            queries.write(rows_of(step))
        student.sources[1].read_run(queries.run_id)
        for _ in itertools.islice(student.knowledge(BATCH), STEPS - steps_left):
            student.save(state)
    assert finish(topic, kafka, state).generated_rows == 0
    replica.done()


def test_an_end_that_only_some_partitions_have_is_completed(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("partly")
    with queries_to(topic, kafka) as queries:
        queries.write(rows_of(0))
        queries.write({"x": rows_of(1)["x"][:2]})
        sink = queries._sink
        assert isinstance(sink, KafkaSink)
        sent = sink._writer.write

        def only_to_some(head: Any, packed: Any, placement: Any) -> None:
            if head.end is None:
                sent(head, packed, placement)
            else:
                sink._writer._connected().send(1, packed, head)

        sink._writer.write = only_to_some  # type: ignore[method-assign]
        queries.end()
    replica = Answering(topic, kafka)
    with queries_to(topic, kafka) as queries:
        assert (queries.rows, queries.ended) == (BATCH + 2, False)
        queries.end()
    assert replica.done().rows == BATCH + 2


def test_a_new_run_is_answered_by_itself_and_replicas_go_over_to_it(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("again")
    replicas = [Answering(topic, kafka) for _ in range(2)]
    with queries_to(topic, kafka) as queries, student_of(topic, kafka) as student:
        # It is left before its end.
        loop = OnPolicy(student, queries, rows_of, batch_size=BATCH, steps=STEPS)
        assert [int(batch["x"][0]) for batch in itertools.islice(loop, 2)] == [0, BATCH]
        first = queries.run_id
    with queries_to(topic, kafka, new_run=True) as queries, student_of(topic, kafka) as student:
        assert queries.run_id != first
        loop = OnPolicy(student, queries, rows_of, batch_size=BATCH, steps=STEPS)
        found = [batch["query_id"].clone() for batch in loop]
    assert len(found) == STEPS
    for each in replicas:
        each.done()
    with student_of(topic, kafka) as student:
        for source in student.sources:
            source.read_run(first)
        (before,) = itertools.islice(student.knowledge(BATCH), 1)
    assert not set(before["query_id"].tolist()) & set(found[0].tolist()), "rows are equal, runs not"


def _copied(source: str, topic: str, partitions: Sequence[int], kafka: dict[str, Any]) -> None:
    """Write some partitions of a topic to those of another."""
    servers = {"bootstrap.servers": kafka["bootstrap_servers"]}
    reader, target = Consumer({**servers, "group.id": "copies"}), Producer(servers)
    for number in partitions:
        part = TopicPartition(source, number, 0)
        _, end = reader.get_watermark_offsets(part, timeout=20)
        reader.assign([part])
        for _ in range(end):
            message = reader.poll(20)
            assert message is not None and message.error() is None
            target.produce(
                topic, message.value(), message.key(), partition=number, headers=message.headers()
            )
    assert target.flush(20) == 0
    reader.close()
    target.close()


def test_a_run_is_left_once_though_the_first_partition_does_not_have_the_newer_one_yet(
    kafka: dict[str, Any], topic_name: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    topic, elsewhere = topic_name("left"), topic_name("elsewhere")
    with queries_to(topic, kafka) as queries:
        queries.write(rows_of(0))
    with queries_to(elsewhere, kafka) as queries:
        queries.write(rows_of(1))
        queries.end()
        newer = queries.run_id
    replica = Answering(topic, kafka)
    _copied(f"{elsewhere}.queries", f"{topic}.queries", [1], kafka)
    deadline = time.monotonic() + 60
    while "a newer run of queries has begun" not in caplog.text:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # It would join and leave the group several times a second.
    time.sleep(3)
    _copied(f"{elsewhere}.queries", f"{topic}.queries", [0, 2, 3], kafka)
    assert replica.done().rows == BATCH
    assert caplog.text.count("a newer run of queries has begun") == 1
    with student_of(topic, kafka) as student:
        assert {source.open(20).stream.run_id for source in student.sources} == {newer}
        (batch,) = student.knowledge(BATCH)
    assert torch.equal(batch["x"], rows_of(1)["x"])


def test_a_source_of_another_run_is_refused(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("other")
    student = Student()
    student.register_teacher(KafkaSource(topic, run="mine", **kafka))
    with (
        queries_to(topic, kafka, run_id="theirs") as queries,
        student,
        pytest.raises(
            ConfigurationError, match="for run theirs, but the source was given run='mine'"
        ),
    ):
        OnPolicy(student, queries, rows_of, batch_size=BATCH, steps=1)


def never(step: int) -> dict[str, Any]:
    raise AssertionError(f"step {step} was generated")


def trained(topic: str, kafka: dict[str, Any], state: Path) -> None:
    """A run of which the student has had two steps."""
    with queries_to(topic, kafka) as queries, student_of(topic, kafka) as student:
        loop = OnPolicy(student, queries, rows_of, batch_size=BATCH, steps=STEPS)
        for _ in itertools.islice(loop, 2):
            student.save(state)


def test_a_student_that_was_opened_for_an_older_run_is_refused(
    kafka: dict[str, Any], topic_name: Callable[[str], str], tmp_path: Path
) -> None:
    topic = topic_name("opened")
    replica = Answering(topic, kafka)
    trained(topic, kafka, tmp_path / "state.json")
    with queries_to(topic, kafka, new_run=True) as queries, student_of(topic, kafka) as student:
        # The new run has no record yet.
        assert student.passes == 1
        with pytest.raises(ConfigurationError, match=r"was opened for .* before"):
            OnPolicy(student, queries, never, batch_size=BATCH, steps=STEPS)
        queries.write(rows_of(0))
        queries.end()
    assert replica.done().rows == BATCH


@pytest.mark.parametrize("opened", [False, True])
def test_a_checkpoint_of_another_run_is_refused_before_anything_is_generated(
    kafka: dict[str, Any], topic_name: Callable[[str], str], tmp_path: Path, opened: bool
) -> None:
    topic, state = topic_name("elsewhere"), tmp_path / "state.json"
    replica = Answering(topic, kafka)
    trained(topic, kafka, state)
    with queries_to(topic, kafka, new_run=True) as queries, student_of(topic, kafka) as student:
        student.load(state)
        if opened:
            assert student.passes == 1
        with pytest.raises(
            RunMismatch, match=r"checkpoint is of run|had 16 rows, but .* holds 0 rows"
        ):
            list(OnPolicy(student, queries, never, batch_size=BATCH, steps=STEPS))
        queries.write(rows_of(0))
        queries.end()
    assert replica.done().rows == BATCH


@pytest.mark.parametrize("first", [0, 1])
def test_queries_that_brokers_refuse_end_the_wait_for_their_answers(
    kafka: dict[str, Any], topic_name: Callable[[str], str], first: int
) -> None:
    topic = topic_name("refused")

    def refused(step: int) -> dict[str, Any]:
        if step == first:
            set_topic(f"{topic}.queries", kafka, max_message_bytes="70")
        return rows_of(step)

    replica = Answering(topic, kafka)
    with (
        queries_to(topic, kafka) as queries,
        student_of(topic, kafka, timeout_s=300) as student,
        pytest.raises(DeliveryFailed, match=f"topic {topic}.queries, partition"),
    ):
        loop = OnPolicy(student, queries, refused, batch_size=BATCH, steps=3, max_policy_lag=0)
        list(loop)
    assert loop.step == first
    set_topic(f"{topic}.queries", kafka, max_message_bytes="1000000")
    # Started again, it writes what is missing.
    assert finish(topic, kafka).generated_rows == (STEPS - first) * BATCH
    assert replica.done().rows == STEPS * BATCH


def test_a_loop_that_waits_in_vain_says_that_a_newer_run_has_begun(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("overtaken")
    with queries_to(topic, kafka) as queries, student_of(topic, kafka, timeout_s=4) as student:
        # The writer would find out by itself if it wrote more.
        loop = OnPolicy(student, queries, never, batch_size=BATCH, steps=STEPS, max_policy_lag=0)
        rows = {**rows_of(0), "policy_version": torch.zeros(BATCH, dtype=torch.int64)}
        queries.write(rows)
        queries.flush()
        with queries_to(topic, kafka, run_id="newer", new_run=True) as others:
            others.write(rows)
            others.flush()
        with pytest.raises(WaitTimeout, match="a newer run of queries, newer, has begun"):
            list(loop)


def test_answers_to_queries_that_were_deleted_are_not_taken_for_those_to_others(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("deleted")
    with queries_to(topic, kafka, run_id="fixed") as queries:
        queries.write(rows_of(0))
        queries.end()
    assert Answering(topic, kafka).done().rows == BATCH
    admin = AdminClient({"bootstrap.servers": kafka["bootstrap_servers"]})
    admin.delete_topics([f"{topic}.queries"])[f"{topic}.queries"].result(20)
    while f"{topic}.queries" in admin.list_topics(timeout=20).topics:
        time.sleep(0.1)
    with queries_to(topic, kafka, run_id="fixed") as queries:
        queries.write(rows_of(1))
        queries.end()
    with pytest.raises(SinkExists, match="answers to an earlier run with the same id 'fixed'"):
        Answering(topic, kafka).done()


def test_queries_in_transactions_are_refused(kafka: dict[str, Any]) -> None:
    sink = KafkaSink("never", partitions=PARTITIONS, transactional=True, **kafka)
    with pytest.raises(ConfigurationError, match="a transaction would hide them"):
        QueryWriter(sink, rows_per_record=ROWS)


def test_rows_of_another_number_than_the_batch_size_are_refused(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("few")
    with queries_to(topic, kafka) as queries, student_of(topic, kafka) as student:
        loop = OnPolicy(
            student, queries, lambda step: {"x": torch.arange(BATCH + 2)}, batch_size=BATCH, steps=2
        )
        with pytest.raises(SchemaError, match="'x' has 10, 'policy_version' has 8"):
            next(iter(loop))
