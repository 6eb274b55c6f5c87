"""Replicas of teachers die, are stopped and come back, and lose a broker, and ranks die, while students wait for answers."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.answering_lesson import answers_to
from support.asking import Answering
from support.asking_ranks import Rank, digest_of_ranks, notes_of, start, steps_of
from support.replicas import LESSON, written

from faults.cluster import PARTITIONS, Cluster, Outcome, Process, until
from tutelage import KafkaSink, QueryWriter

pytestmark = [pytest.mark.kafka, pytest.mark.faults, pytest.mark.timeout(900)]
_RECORDS, _ROWS = 120, 4


def ask(running: Cluster, name: str) -> str:
    """Write queries, and return the topic of their answers."""
    topic = running.topic(name)
    sink = KafkaSink(f"{topic}.queries", partitions=PARTITIONS, **running.kafka())
    with QueryWriter(sink, rows_per_record=_ROWS, run_id="asked") as queries:
        queries.write({"x": torch.arange(_RECORDS * _ROWS)})
        queries.end()
    return topic


def replica(
    running: Cluster, topic: str, cwd: Path, seconds: str, *, asked: str = "", more: str = "0"
) -> Process:
    """Start a replica, with a delay for each query and a number that it adds to its answers."""
    return running.begin(
        "teach", f"{LESSON}:lesson", "--queries", asked or f"{topic}.queries", "--topic", topic,
        "--max-rows", str(_ROWS), cwd=cwd, ANSWER_SLEEP_S=seconds, ANSWER_MORE=more,
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


def calm_ranks(running: Cluster, folder: Path, steps: int, size: int) -> str:
    """The digest of a program of one rank and two teachers, which nothing disturbs."""
    topics = [running.topic("calm-first"), running.topic("calm-second")]
    program = Rank(
        topics=topics, folder=str(folder), rank=0, ranks=1, steps=steps, size=size,
        kafka=running.kafka(),
    )  # fmt: skip
    answering = [
        Answering(
            topic,
            running.kafka(),
            lambda batch, more=more: {"y": answers_to(batch["x"]) + more},
            queries=program.asked,
        )
        for topic, more in zip(topics, (0, 4), strict=True)
    ]
    program.train()
    for each in answering:
        each.done()
    return digest_of_ranks([notes_of(folder, "rank0.txt")[0]], steps)


def disturb(running: Cluster, topics: Sequence[str], folder: Path, fields: dict[str, Any]) -> None:
    """Train by two ranks while replicas and a rank die; those that are alive end well."""
    asked, replicas = f"{topics[0]}.queries", list[Process]()

    def another(teacher: int) -> Process:
        more = str(4 * teacher)
        made = replica(running, topics[teacher], folder, "0.05", asked=asked, more=more)
        replicas.append(made)
        return made

    environment = running.environment({})
    ranks = [start(environment, rank=rank, **fields) for rank in range(2)]
    try:
        first, second, other = another(0), another(0), another(1)
        until(lambda: steps_of(folder, 0) >= 5, "the ranks to train", 300)
        first.kill()
        other.send(signal.SIGSTOP)
        spare = another(1)
        until(lambda: steps_of(folder, 1) >= 12, "rank 1 to train", 300)
        ranks[1].kill()
        ranks[1].wait(20)
        ranks[1] = start(environment, rank=1, **fields)
        until(lambda: steps_of(folder, 1) >= 16, "rank 1 to train again", 300)
        # The one that was stopped has lost its partitions, finds that out, and gets them back.
        other.send(signal.SIGCONT)
        spare.kill()
        codes = [each.wait(300) for each in ranks]
        assert codes == [0, 0], [path.read_text()[-2000:] for path in folder.glob("rank*.err")]
        for each in (second, other):
            code, _, err = each.ended()
            assert code == 0, err
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait(20)
        for each in replicas:
            # Also one that is stopped.
            each.kill()


def test_32_ranks_and_replicas_of_two_merged_teachers_die(
    running: Cluster, outcome: Outcome, tmp_path: Path
) -> None:
    """a rank of two, and replicas of two teachers whose answers are merged, killed and stopped in turn."""
    steps, size = 24, 16
    calm, folder = tmp_path / "calm", tmp_path / "ranks"
    calm.mkdir()
    folder.mkdir()
    expected = calm_ranks(running, calm, steps, size)
    topics = [running.topic("first"), running.topic("second")]
    fields = {
        "topics": topics, "folder": str(folder), "ranks": 2, "steps": steps, "size": size,
        "pause_s": 0.2, "timeout_s": 300.0,
    }  # fmt: skip
    disturb(running, topics, folder, fields)
    found = [notes_of(folder, f"rank{rank}.txt") for rank in range(2)]
    assert digest_of_ranks([given for given, _ in found], steps) == expected
    for given, _ in found:
        assert max(note["lag"] for note in given.values()) <= 2
    generated = [note["generated"] for note in found[0][1] if "generated" in note]
    assert generated == [steps * size // 2]
    for topic in topics:
        sequences, dropped = written(topic, running.kafka())
        outcome.duplicates += dropped
        assert [each[-1] for each in sequences.values()] == [-1] * len(sequences)
    outcome.batches = 2 * steps
    outcome.done = "2 replicas killed, 1 stopped, a rank killed"
    outcome.verdict = "digest equal"
