"""Replicas of a teacher die, are stopped and come back, and lose a broker, while a student waits for their answers."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import torch
from support.replicas import LESSON, written

from faults.cluster import PARTITIONS, Cluster, Outcome, Process, until
from tutelage import KafkaSink, QueryWriter

pytestmark = [pytest.mark.kafka, pytest.mark.faults, pytest.mark.timeout(400)]
_RECORDS, _ROWS = 120, 4


def ask(running: Cluster, name: str) -> str:
    """Write queries, and return the topic of their answers."""
    topic = running.topic(name)
    sink = KafkaSink(f"{topic}.queries", partitions=PARTITIONS, **running.kafka())
    with QueryWriter(sink, rows_per_record=_ROWS, run_id="asked") as queries:
        queries.write({"x": torch.arange(_RECORDS * _ROWS)})
        queries.end()
    return topic


def replica(running: Cluster, topic: str, cwd: Path, seconds: str) -> Process:
    """Start a replica that takes so long for each query."""
    return running.begin(
        "teach", f"{LESSON}:lesson", "--queries", f"{topic}.queries", "--topic", topic,
        "--max-rows", str(_ROWS), cwd=cwd, ANSWER_SLEEP_S=seconds,
    )  # fmt: skip


def digest_of(running: Cluster, topic: str, cwd: Path, outcome: Outcome) -> str:
    """What a student reads of the answers, in short."""
    code, out, err = running.learn(topic, cwd).ended(180)
    assert code == 0, err
    result = json.loads(out)
    assert result["rows"] == _RECORDS * _ROWS
    outcome.duplicates += result["dropped"]["duplicates"]
    return str(result["digest"])


def test_31_replicas_die_every_five_seconds(
    running: Cluster, outcome: Outcome, tmp_path: Path
) -> None:
    """replicas killed and stopped in turn, every five seconds, and a broker killed."""
    calm = ask(running, "calm")
    code, _, err = replica(running, calm, tmp_path, "0").ended()
    assert code == 0, err
    expected = digest_of(running, calm, tmp_path, outcome)

    topic = ask(running, "restless")
    alive = [replica(running, topic, tmp_path, "0.2") for _ in range(2)]
    stopped: list[Process] = []
    running.await_records(topic, 5)
    for turn in range(5):
        time.sleep(5)
        victim = alive.pop(0)
        if turn % 2:
            victim.send(signal.SIGSTOP)
            stopped.append(victim)
        elif victim.running():
            victim.kill()
        alive.append(replica(running, topic, tmp_path, "0.2"))
        if turn == 1:
            running.stack.kill(running.brokers()[0])
    for each in stopped:
        # They were thought dead, and find out that they have lost their partitions.
        each.send(signal.SIGCONT)
    running.stack.restart(running.brokers()[0])
    for each in [*alive, *stopped]:
        code, _, err = each.ended(180)
        assert code == 0, err
    assert digest_of(running, topic, tmp_path, outcome) == expected
    sequences, _ = written(topic, running.kafka())
    assert sequences == {
        partition: [*range(partition, _RECORDS, PARTITIONS), -1] for partition in range(PARTITIONS)
    }
    until(lambda: not any(each.running() for each in alive), "the replicas to end")
    outcome.done = "3 kills, 2 stops, a broker killed"
    outcome.verdict = "digest equal"
