"""Teachers die, come back from the dead, fork, are told to end; with and without transactions."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from faults.cluster import RECORDS, Cluster, Outcome, one_line, until
from tutelage import KafkaSink, KafkaSource, Student, Teacher
from tutelage.schemas.errors import ConfigurationError, RecordTooLarge

pytestmark = [pytest.mark.kafka, pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.mark.parametrize("more", [(), ("--transactional",)], ids=["plain", "transactional"])
def test_04_kill_the_teacher_ten_times(
    running: Cluster, outcome: Outcome, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """kill -9 of the teacher, ten times."""
    topic = running.topic("teacher")
    student = running.learn(topic, tmp_path)
    for index in range(10):
        teacher = running.teach(topic, tmp_path, *more, seconds="0.02")
        if more:
            # What is not committed counts as records, too, until it is aborted: a while is all that can be said.
            until(lambda: running.held(topic) > 0, "the topic to fill", 60)
            time.sleep(1.5)
        else:
            running.await_records(topic, min(RECORDS - 5, 3 + 9 * index))
        teacher.kill()
    code, _, err = running.teach(topic, tmp_path, *more, seconds="0").ended()
    assert code == 0, err
    running.same(student, outcome)
    outcome.done = f"10 kills{', in transactions' if more else ''}"


@pytest.mark.parametrize("more", [(), ("--transactional",)], ids=["plain", "transactional"])
def test_05_a_teacher_comes_back_from_the_dead(
    running: Cluster, outcome: Outcome, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """a zombie: SIGSTOP, another teacher, SIGCONT."""
    topic = running.topic("zombie")
    zombie = running.teach(topic, tmp_path, *more, seconds="0.05")
    running.await_records(topic, 20)
    zombie.send(signal.SIGSTOP)
    second = running.teach(topic, tmp_path, *more, seconds="0.05")
    time.sleep(6)
    zombie.send(signal.SIGCONT)
    code, _, err = zombie.ended()
    assert second.ended()[0] == 0
    if more:
        assert code == 4, (code, err)
        outcome.done = "the zombie ends: " + one_line(err, "FENCED")[7:60]
    else:
        assert code == 0, err
        outcome.done = "both write to the end"
    running.same(running.learn(topic, tmp_path), outcome)
    if not more:
        assert outcome.duplicates > 0


def test_07_a_commit_whose_end_nobody_knows(
    running: Cluster, outcome: Outcome, tmp_path: Path
) -> None:
    """the coordinator's answers are delayed past the commit's timeout."""
    topic = running.topic("commit")
    student = running.learn(topic, tmp_path)
    teacher = running.teach(topic, tmp_path, "--transactional", seconds="0.1")
    running.await_records(topic, 15)
    running.proxies.add("latency", latency=40_000, jitter=0)
    code, _, err = teacher.ended(120)
    running.proxies.heal()
    assert code == 4, err
    one_line(err, topic, "this teacher stops")
    code, _, err = running.teach(topic, tmp_path, "--transactional", seconds="0").ended()
    assert code == 0, err
    running.same(student, outcome)
    outcome.done = "answers 40 s late: the teacher ends; another goes on"


def test_08_a_transaction_is_left_open(running: Cluster, outcome: Outcome, tmp_path: Path) -> None:
    """an open transaction is abandoned."""
    topic = running.topic("open")
    student = running.learn(topic, tmp_path)
    teacher = running.teach(topic, tmp_path, "--transactional", seconds="0.1")
    running.await_records(topic, 15)
    time.sleep(0.7)
    teacher.kill()
    # A plain teacher fences nobody: what was left open hides what it writes, until it times out at the broker.
    until(
        lambda: f"waiting for topic {topic}" in student.said(),
        "the student to say what it waits for",
        30,
    )
    code, _, err = running.teach(topic, tmp_path, seconds="0").ended()
    assert code == 0, err
    running.same(student, outcome)
    outcome.done = (
        "killed with a transaction open, a plain teacher after it; the student says that it waits"
    )


def test_19_a_record_over_the_topics_limit(running: Cluster, outcome: Outcome) -> None:
    """a record over the topic's limit."""
    topic = running.topic("large")
    sink = KafkaSink(topic, topic_settings={"max.message.bytes": "200000"}, **running.kafka())
    with (
        pytest.raises(RecordTooLarge, match=f"topic {topic}.*rows_per_record=33 would fit"),
        Teacher(sink, rows_per_record=50) as teacher,
    ):
        teacher.write({"x": torch.zeros(50, 1000)})
    assert running.held(topic) == 0
    outcome.done, outcome.verdict = (
        "refused before anything was sent",
        "RecordTooLarge, with the R that fits",
    )


def test_21_a_process_forks(running: Cluster, outcome: Outcome) -> None:
    """fork after the connection is open."""
    topic = running.topic("fork")
    with Teacher(KafkaSink(topic, partitions=1, **running.kafka()), rows_per_record=4) as teacher:
        teacher.write({"x": torch.arange(8)})
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            said = b"nothing"
            try:
                teacher.write({"x": torch.arange(4)})
            except ConfigurationError as error:
                said = str(error).encode()
            os.write(write, said)
            os._exit(0)
        os.waitpid(child, 0)
        assert b"was forked from it" in os.read(read, 1000)
        os.close(read)
        os.close(write)
        teacher.write({"x": torch.arange(8, 12)})
    student = Student(timeout_s=30)
    student.register_teacher(KafkaSource(topic, **running.kafka()))
    with student:
        assert [x for batch in student.knowledge(5) for x in batch["x"].tolist()] == list(range(12))
    outcome.done, outcome.verdict = (
        "the child writes: an error that says what to do; the parent goes on",
        "error in the child",
    )


def test_22_sigterm(running: Cluster, outcome: Outcome, tmp_path: Path) -> None:
    """SIGTERM to teacher and student."""
    topic = running.topic("sigterm")
    student = running.learn(topic, tmp_path)
    teacher = running.teach(topic, tmp_path, seconds="0.05")
    running.await_records(topic, 20)
    took = []
    for process in (teacher, student):
        began = time.monotonic()
        process.send(signal.SIGTERM)
        code, _, err = process.ended(30)
        took.append(time.monotonic() - began)
        assert code == 143, (code, err)
        assert err.strip().splitlines()[-1] == "terminated"
    assert max(took) < 10
    assert running.teach(topic, tmp_path, seconds="0").ended()[0] == 0
    running.same(running.learn(topic, tmp_path), outcome)
    outcome.done = f"exit 143 after {took[0]:.1f} and {took[1]:.1f} s; the next go on"
