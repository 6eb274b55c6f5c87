"""Queries that end their replicas, and queries for other teachers, on a real broker."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.answering_lesson import answers_to, model
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
from support.replicas import Replicas, written

from tutelage import (
    ConfigurationError,
    DeliveryFailed,
    KafkaSink,
    KafkaSource,
    MergeError,
    OnPolicy,
    QueryUnanswered,
    RecordTooLarge,
    Sampled,
    SchemaError,
    Student,
    Teacher,
)

pytestmark = pytest.mark.kafka

STEPS = 6
POISON = 2 * BATCH + 5


class Supervisor(threading.Thread):
    """Starts replicas again when they were killed, as an orchestrator does."""

    def __init__(self, replicas: Replicas, count: int, *flags: str, **variables: str) -> None:
        super().__init__(daemon=True)
        self._replicas = replicas
        self._begin = lambda: replicas.start(*flags, **variables)
        self._living = [self._begin() for _ in range(count)]
        self._over = threading.Event()
        self.deaths = 0
        self.start()

    def run(self) -> None:
        while not self._over.wait(0.1):
            for number, each in enumerate(self._living):
                if each.poll() not in (None, 0):
                    self.deaths += 1
                    self._living[number] = self._begin()

    def close(self) -> None:
        self._over.set()
        self.join()
        self._replicas.close()


def test_a_query_that_kills_its_replicas_is_given_up_and_no_other_is(
    kafka: dict[str, Any],
    environment: dict[str, str],
    topic_name: Callable[[str], str],
    tmp_path: Path,
) -> None:
    topic = topic_name("poison")
    supervisor = Supervisor(Replicas(topic, environment, tmp_path), 2, ANSWER_POISON=str(POISON))
    try:
        with (
            queries_to(topic, kafka) as queries,
            # Each death takes a session's timeout and a start.
            student_of(topic, kafka, timeout_s=240) as student,
        ):
            loop = OnPolicy(student, queries, rows_of, batch_size=BATCH, steps=STEPS)
            first_two = list(itertools.islice(loop, 2))
            with pytest.raises(QueryUnanswered, match=r"row 20: .*teacher.* gave this query up"):
                list(loop)
        assert torch.equal(
            torch.cat([batch["y"] for batch in first_two]), answers_to(torch.arange(2 * BATCH))
        )
        # The run is whole: the same rows again, without those of the query that was given up.
        with (
            queries_to(topic, kafka) as queries,
            student_of(topic, kafka, on_unanswered="skip") as student,
        ):
            loop = OnPolicy(student, queries, rows_of, batch_size=BATCH, steps=STEPS)
            found = [batch["x"].clone() for batch in loop]
        given_up = range(POISON // ROWS * ROWS, POISON // ROWS * ROWS + ROWS)
        assert torch.cat(found).tolist() == [
            row for row in range(STEPS * BATCH) if row not in given_up
        ]
        assert [len(each) for each in found] == [8, 8, 6, 8, 8, 8]
    finally:
        supervisor.close()
    # The first death may not have been with the partition's first query.
    assert 3 <= supervisor.deaths <= 4
    sequences, _ = written(topic, kafka)
    assert sequences == {
        partition: [*range(partition, STEPS * BATCH // ROWS, PARTITIONS), -1]
        for partition in range(PARTITIONS)
    }


def _raises(batch: dict[str, Any]) -> dict[str, Any]:
    if (batch["x"] == POISON).any():
        raise ValueError("no such token")
    return model(batch)


def _overflows(batch: dict[str, Any]) -> dict[str, Any]:
    return {"y": torch.where(batch["x"] == POISON, 1e6, 1.0)}


def _answers_too_much(batch: dict[str, Any]) -> dict[str, Any]:
    return {
        "y": [torch.zeros(30 << 20 if x == POISON else 1, dtype=torch.int8) for x in batch["x"]]
    }


@pytest.mark.parametrize(
    ("fails", "options", "error"),
    [
        (_raises, {}, ValueError),
        (_overflows, {"wire": {"y": "float16"}}, SchemaError),
        (_answers_too_much, {"ragged_keys": ["y"]}, RecordTooLarge),
    ],
)
def test_a_query_whose_answer_fails_ends_its_replica_and_that_counts_as_a_death(
    kafka: dict[str, Any],
    topic_name: Callable[[str], str],
    fails: Any,
    options: dict[str, Any],
    error: type[Exception],
) -> None:
    topic = topic_name("raises")
    with queries_to(topic, kafka) as queries:
        for step in range(STEPS):
            queries.write(rows_of(step))
        queries.end()
    failures = 0
    while True:
        replica = Answering(topic, kafka, fails, give_up_after=2, **options)
        try:
            stats = replica.done()
            break
        except error:
            failures += 1
            assert failures < 6
    assert 2 <= failures <= 3
    assert stats.given_up == 1
    with student_of(topic, kafka, on_unanswered="skip") as student:
        found = torch.cat([batch["x"].clone() for batch in student.knowledge(BATCH)])
    assert len(found) == STEPS * BATCH - ROWS


def test_replicas_that_are_stopped_or_slow_give_nothing_up(
    kafka: dict[str, Any],
    environment: dict[str, str],
    topic_name: Callable[[str], str],
    tmp_path: Path,
) -> None:
    topic = topic_name("stopped")
    replicas = Replicas(topic, environment, tmp_path)
    try:
        with queries_to(topic, kafka) as queries:
            queries.write(rows_of(0))
            for number in range(3):
                called = tmp_path / f"called-{number}"
                stopped = replicas.start(
                    "--give-up-after", "2", ANSWER_SLEEP_S="60", ANSWER_CALLED=str(called)
                )
                deadline = time.monotonic() + 60
                while not called.exists():
                    assert time.monotonic() < deadline, replicas.output()
                    time.sleep(0.1)
                os.kill(stopped.pid, signal.SIGTERM)
                stopped.wait(60)
            queries.end()
            replica = Answering(topic, kafka, give_up_after=2)
            assert replica.done().given_up == 0
    finally:
        replicas.close()
    with student_of(topic, kafka) as student:
        assert len(list(student.knowledge(BATCH))) == 1


def test_answers_that_brokers_refuse_blame_no_query(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("refused")

    def refused(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        # The replica has looked at the topic already, and takes its answers for small enough.
        set_topic(topic, kafka, max_message_bytes="70")
        return model(batch)

    with queries_to(topic, kafka) as queries:
        for step in range(STEPS):
            queries.write(rows_of(step))
        queries.end()
    for _ in range(3):
        with pytest.raises(DeliveryFailed, match="partition"):
            Answering(topic, kafka, refused, give_up_after=2).done()
        set_topic(topic, kafka, max_message_bytes="1000000")
    assert Answering(topic, kafka, give_up_after=2).done().given_up == 0
    with student_of(topic, kafka) as student:
        assert len(list(student.knowledge(BATCH))) == STEPS


def test_the_first_query_of_a_run_is_not_given_up_in_silence(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("first")

    def fails(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        raise ValueError("no weights")

    with queries_to(topic, kafka) as queries:
        queries.write(rows_of(0))
        queries.end()
    for _ in range(2):
        with pytest.raises(ValueError, match="no weights"):
            Answering(topic, kafka, fails, give_up_after=2).done()
    with pytest.raises(QueryUnanswered, match=r"query 0 of pass 0 .* has ended 2 replicas.*first"):
        Answering(topic, kafka, fails, give_up_after=2).done()
    Answering(topic, kafka, give_up_after=None).done()


def _routed(step: int) -> dict[str, Any]:
    """Rows for teachers 1 and 2 in turn, in every mixture within a record."""
    x = torch.arange(step * BATCH, (step + 1) * BATCH)
    lengths = [int(row) % 3 + 1 for row in x]
    return {
        "x": x,
        "teacher": (x * 3 // 2) % 2 + 1,
        "ids": [torch.full((length,), int(row)) for row, length in zip(x, lengths, strict=True)],
    }


def _expert(number: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A teacher that knows its own rows alone: a number, a row of logits, and ragged values."""

    def teach(batch: dict[str, Any]) -> dict[str, Any]:
        assert (batch["teacher"] == number).all(), "the model gets no rows of another teacher"
        x, lengths = batch["x"], batch["ids.lengths"]
        return {
            "y": x * 10 + number,
            "logits": torch.nn.functional.one_hot(x % 5, 5).float() * 40 * number,
            "v": [
                row[:length].float() * number
                for row, length in zip(batch["ids"], lengths, strict=True)
            ],
        }

    return teach


@pytest.fixture
def routed(kafka: dict[str, Any], topic_name: Callable[[str], str]) -> Iterator[str]:
    """A topic of queries for two teachers, and the topics of both."""
    topic = topic_name("routed")
    with queries_to(topic, kafka, ragged_keys=["ids"]) as queries:
        for step in range(STEPS):
            queries.write(_routed(step))
        queries.end()
    yield topic


def _answer(
    topic: str, kafka: dict[str, Any], number: int, given: Any = None, **options: Any
) -> None:
    """One teacher answers all queries, in several calls."""
    teacher = Teacher(
        KafkaSink(f"{topic}-{number}", **kafka),
        name=f"teacher{number}",
        wire={"logits": Sampled(20)},
        ragged_keys=["v"],
    )
    teacher.answer(
        given or _expert(number),
        f"{topic}.queries",
        **{"only": {"teacher": number}, "max_rows": 4, "timeout_s": 60.0, **options},
    )


def _student(
    topic: str, kafka: dict[str, Any], merge: dict[str, Any], *numbers: int, **options: Any
) -> Student:
    student = Student(merge, sample_id="query_id", timeout_s=60, **options)
    student.register_teacher(KafkaSource(f"{topic}.queries", **kafka))
    for number in numbers:
        student.register_teacher(KafkaSource(f"{topic}-{number}", **kafka))
    return student


def test_each_row_is_that_of_its_teacher(routed: str, kafka: dict[str, Any]) -> None:
    for number in (1, 2):
        _answer(routed, kafka, number)
    merge = dict.fromkeys(("y", "logits", "v"), "answered")
    with _student(routed, kafka, merge, 1, 2) as student:
        batches = list(student.knowledge(BATCH))
    assert "query_status" not in batches[0]
    for step, batch in enumerate(batches):
        rows = _routed(step)
        teacher = rows["teacher"]
        assert torch.equal(batch["y"], rows["x"] * 10 + teacher)
        assert torch.equal(batch["logits"].dense().argmax(-1), rows["x"] % 5)
        for row, length in enumerate(batch["v.lengths"]):
            expected = rows["ids"][row].float() * int(teacher[row])
            assert torch.equal(batch["v"][row, :length], expected)


def test_rows_of_another_teacher_are_never_taken_for_answers(
    routed: str, kafka: dict[str, Any]
) -> None:
    for number in (1, 2):
        _answer(routed, kafka, number)
    merge = {"y": "answered", "logits": "answered", "v": "first"}
    with (
        _student(routed, kafka, merge, 1, 2) as student,
        pytest.raises(MergeError, match=r"key 'v', row \d: .*does not answer this query.*answered"),
    ):
        list(student.knowledge(BATCH))
    with (
        _student(routed, kafka, {}, 1) as student,
        pytest.raises(QueryUnanswered, match="for none of the teachers that answer here"),
    ):
        list(student.knowledge(BATCH))


def test_a_teacher_that_gives_a_query_up_gives_up_its_own_rows_alone(
    routed: str, kafka: dict[str, Any]
) -> None:
    def fails(batch: dict[str, Any]) -> dict[str, Any]:
        if (batch["x"] == 2).any():
            raise ValueError("no such token")
        return _expert(2)(batch)

    _answer(routed, kafka, 1)
    for failures in itertools.count():
        assert failures < 5
        try:
            _answer(routed, kafka, 2, fails, give_up_after=2)
            break
        except ValueError:
            continue
    # Rows 2 and 3 are one query: one row of teacher 2, and one of teacher 1.
    assert _routed(0)["teacher"][2:4].tolist() == [2, 1]
    merge = dict.fromkeys(("y", "logits", "v"), "answered")
    with _student(routed, kafka, merge, 1, 2, on_unanswered="skip") as student:
        found = torch.cat([batch["x"].clone() for batch in student.knowledge(BATCH)])
    assert found.tolist() == [row for row in range(STEPS * BATCH) if row != 2]


def test_a_teacher_of_no_row_of_the_first_query_learns_what_its_answers_hold(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("others")
    with queries_to(topic, kafka) as queries:
        for step in range(STEPS):
            rows = rows_of(step)
            queries.write({**rows, "teacher": torch.where(rows["x"] < 20, 1, 2)})
        queries.end()
    # It gets the first query though it is another's, because nobody else can say what answers hold.
    Answering(topic, kafka, only={"teacher": 2}).done()
    with student_of(topic, kafka, on_unanswered="skip") as student:
        batches = list(student.knowledge(BATCH))
    assert [len(batch["x"]) for batch in batches] == [0, 0, 4, 8, 8, 8]
    found = torch.cat([batch["x"] for batch in batches])
    assert torch.equal(found, torch.arange(20, STEPS * BATCH))
    assert torch.equal(torch.cat([batch["y"] for batch in batches]), answers_to(found))


def test_a_key_that_queries_lack_is_refused(routed: str, kafka: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"no key 'expert'.*'x', 'teacher'"):
        _answer(routed, kafka, 1, only={"expert": 1})
    with pytest.raises(ConfigurationError, match="one whole number a row"):
        _answer(routed, kafka, 1, only={"ids": 1})
    with pytest.raises(ConfigurationError, match="only is"):
        _answer(routed, kafka, 1, only={"teacher": "math"})
