"""Several runs in one topic, topics that change under a teacher, and brokers that are away when somebody starts."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions
from confluent_kafka.cimpl import NewTopic

from faults.cluster import PARTITIONS, RECORDS, Cluster, Outcome, one_line, until

pytestmark = [pytest.mark.kafka, pytest.mark.faults, pytest.mark.timeout(900)]


def test_23_a_newer_run_begins(running: Cluster, outcome: Outcome, tmp_path: Path) -> None:
    """a newer run begins; the older one's teacher comes back from the dead, and both are restarted."""
    topic = running.topic("runs")
    older = running.teach(topic, tmp_path, "--new-run", "--run-id", "mon", seconds="0.05")
    running.await_records(topic, 20)
    reader = running.learn(topic, tmp_path, "--run", "mon")
    until(lambda: older.running() and running.held(topic) >= 30, "the older run to go on")
    older.send(signal.SIGSTOP)
    admin = running.connection().admin()
    admin.create_partitions([NewPartitions(topic, PARTITIONS + 2)])[topic].result(30)
    newer = running.teach(topic, tmp_path, "--new-run", "--run-id", "tue", seconds="0.05")
    until(lambda: running.held(topic) >= 70, "the newer run to be under way")
    newer.kill()
    older.send(signal.SIGCONT)
    code, _, err = older.ended()
    assert code == 5, err
    one_line(err, "run tue began behind run mon")
    # The older one is not continued behind the newer, and the newer one goes on.
    code, _, err = running.teach(
        topic, tmp_path, "--new-run", "--run-id", "mon", seconds="0"
    ).ended()
    assert code == 2, err
    one_line(err, "mon", "newer one behind it")
    code, _, err = running.teach(
        topic, tmp_path, "--new-run", "--run-id", "tue", seconds="0"
    ).ended()
    assert code == 0, err
    running.same(running.learn(topic, tmp_path), outcome)
    until(
        lambda: "run tue has begun after run mon" in reader.said(),
        "the older run's student to say that a newer began",
        60,
    )
    reader.kill()
    outcome.done = "SIGSTOP, two partitions more, a newer run, kill, SIGCONT: the older teacher ends, the newer run is whole"


@pytest.mark.parametrize("away", [2, 3])
def test_24_brokers_are_away_at_the_start(
    running: Cluster, outcome: Outcome, tmp_path: Path, away: int
) -> None:
    """two of three brokers, or all, are away when teacher and student start."""
    topic = running.topic("away")
    for name in running.brokers()[:away]:
        running.stack.kill(name)
    student = running.learn(topic, tmp_path)
    teacher = running.teach(topic, tmp_path, seconds="0")
    time.sleep(20)
    assert student.running(), student.said()
    assert teacher.running(), teacher.said()
    for name in running.brokers()[:away]:
        running.stack.restart(name)
    code, _, err = teacher.ended(180)
    assert code == 0, err
    running.same(student, outcome)
    outcome.done = f"{away} of three away for 20 s: both wait, and begin"


def test_25_the_topic_is_recreated_under_its_teacher(
    running: Cluster, outcome: Outcome, tmp_path: Path
) -> None:
    """the topic is deleted and made again while its teacher writes."""
    topic = running.topic("under")
    teacher = running.teach(topic, tmp_path, seconds="0.2")
    running.await_records(topic, 10)
    admin = running.connection().admin()
    admin.delete_topics([topic])[topic].result(30)
    until(lambda: not running.asked(topic).partitions(), "the topic to be gone")
    admin.create_topics([NewTopic(topic, PARTITIONS)])[topic].result(30)
    code, _, err = teacher.ended(90)
    assert code in (4, 5), err
    outcome.done = "made again, with as many partitions"
    outcome.verdict = f"exit {code}: {one_line(err, topic)[7:90]}"


def test_26_compaction_is_turned_on(running: Cluster, outcome: Outcome, tmp_path: Path) -> None:
    """cleanup.policy=compact is set in the middle of a run."""
    topic = running.topic("compaction")
    teacher = running.teach(topic, tmp_path, seconds="0.2")
    student = running.learn(topic, tmp_path)
    running.await_records(topic, 10)
    entry = ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin = running.connection().admin()
    admin.incremental_alter_configs([resource])[resource].result(30)
    code, _, err = teacher.ended(90)
    assert code == 4, err
    one_line(err, topic, "cleanup.policy=compact")
    code, _, err = student.ended(90)
    assert code == 2, err
    outcome.done = "set while both were under way"
    outcome.verdict = one_line(err, topic, "cleanup.policy=compact")[7:80]


def test_27_retention_takes_the_older_run(
    running: Cluster, outcome: Outcome, tmp_path: Path
) -> None:
    """the records of an older run are deleted while the newer one is read."""
    topic = running.topic("older")
    assert running.teach(topic, tmp_path, "--run-id", "mon", seconds="0").ended()[0] == 0
    ends = running.asked(topic).end_offsets(PARTITIONS)
    newer = running.teach(topic, tmp_path, "--new-run", "--run-id", "tue", seconds="0.05")
    running.await_records(topic, RECORDS + PARTITIONS + 20)
    student = running.learn(topic, tmp_path)
    admin = running.connection().admin()
    deleted = admin.delete_records([TopicPartition(topic, at, end) for at, end in enumerate(ends)])
    for future in deleted.values():
        future.result(30)
    assert newer.ended()[0] == 0
    result = running.same(student, outcome)
    assert result["dropped"] == {"duplicates": 0, "zombies": 0}
    code, out, err = running.begin("inspect", topic, "--json", cwd=tmp_path).ended()
    assert code == 0, err
    assert [run["run_id"] for run in json.loads(out)["runs"]] == ["tue"]
    outcome.done = "all of monday's records deleted in the middle of tuesday's"
