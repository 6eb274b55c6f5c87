"""The benchmark of deaths: how long partitions have no answers after a replica was killed.

Two replicas, whose model sleeps, share queries that come all the time. One is killed with SIGKILL.
What counts is the longest time between two answers in the partitions that it owned. They are on one
machine, so their clocks are one.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.actors import TIMEOUT_S, Gate
from benchmarks.bench import Bench
from benchmarks.measure import Comparison, Sample, Side
from benchmarks.scale import Scale

PARTITIONS, ROWS = 8, 4
_MODEL_S, _ASK_EVERY_S = 0.02, 0.1
#: How many are killed in one round of the benchmark, by protocol and session timeout in seconds.
#: With "consumer" the timeout is the broker's, of which 45 s is the default and the least.
_DEATHS = {("classic", 6.0): 5, ("consumer", 45.0): 1}
_QUANTILES: dict[str, Callable[[list[float]], float]] = {
    "p50": lambda gaps: sorted(gaps)[len(gaps) // 2],
    "longest": max,
}


def comparisons(bench: Bench, scale: Scale) -> Iterator[Comparison]:
    """The comparisons: one for each protocol."""
    for (protocol, session_s), deaths in _DEATHS.items():
        gaps: list[list[float]] = []
        count = deaths if scale.lone_batches >= 200 else 1
        yield Comparison(
            title=f"replicas: without answers after a death ({protocol}, session {session_s:.0f} s)",
            times=True,
            sides=[
                Side(name=name, run=partial(_gap, bench, protocol, session_s, count, gaps, name))
                for name in _QUANTILES
            ],
        )


def _gap(
    bench: Bench, protocol: str, session_s: float, deaths: int, gaps: list[list[float]], name: str
) -> Sample:
    """One quantile of the deaths; the first of a round of the benchmark kills the replicas."""
    if name == next(iter(_QUANTILES)):
        gaps.append([death(bench, protocol, session_s) for _ in range(deaths)])
    return Sample(seconds=_QUANTILES[name](gaps[-1]), nbytes=ROWS * 8, units=1)


def death(bench: Bench, protocol: str, session_s: float) -> float:
    """Kill one of two replicas.

    Returns:
        The longest time between two answers in one of its partitions, in seconds.
    """
    topic = bench.topic(PARTITIONS)
    student, survivor, victim = (bench.actor(name) for name in ("student", "survivor", "victim"))
    arguments = (bench.kafka, topic, protocol, session_s)
    try:
        student.prepare(ask, bench.kafka, topic, victim.pid)
        for each in (survivor, victim):
            each.prepare(answer, *arguments)
        for each in (student, survivor, victim):
            each.go()
        gap: float = student.done().value
        survivor.done()
    finally:
        victim.restart()
    return gap


def answer(gate: Gate, kafka: dict[str, Any], topic: str, protocol: str, session_s: float) -> None:
    """A replica, whose model sleeps."""
    from tutelage import KafkaSink, Teacher
    from tutelage.schemas.queries import queries_topic

    def model(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        time.sleep(_MODEL_S)
        return {"y": batch["x"] + 1}

    gate.ready()
    Teacher(KafkaSink(topic, **kafka), name="teacher").answer(
        model,
        queries_topic(topic),
        group_protocol=protocol,
        session_timeout_s=session_s,
        timeout_s=TIMEOUT_S,
    )


def ask(gate: Gate, kafka: dict[str, Any], topic: str, victim: int) -> float:
    """Write queries all the time, and kill a replica. Returns how long it was missed, in seconds."""
    from tutelage import KafkaSink, QueryWriter
    from tutelage.schemas.queries import queries_topic

    sink = KafkaSink(queries_topic(topic), partitions=PARTITIONS, **kafka)
    done = threading.Event()
    gate.ready()
    with QueryWriter(sink, rows_per_record=ROWS) as writer:

        def write() -> None:
            while not done.wait(_ASK_EVERY_S):
                writer.write({"x": torch.arange(PARTITIONS * ROWS)})

        writer.write({"x": torch.arange(PARTITIONS * ROWS)})
        asking = threading.Thread(target=write, name="asking")
        asking.start()
        try:
            owned = _shared(kafka, topic, victim)
            # Both answer for a while.
            time.sleep(2.0)
            killed_s = time.time()
            os.kill(victim, signal.SIGKILL)
            _answered_again(kafka, topic, owned, killed_s)
        finally:
            done.set()
            asking.join()
        writer.end()
    written = _answers(kafka, topic, owned)
    return max(
        after - before
        for times in written.values()
        for before, after in itertools.pairwise(times)
        if after > killed_s
    )


def _shared(kafka: dict[str, Any], topic: str, victim: int) -> list[int]:
    """Wait until both replicas own half of the partitions. Returns those of the victim."""
    from tutelage.schemas.queries import queries_topic, replica_group
    from tutelage.transport.connection import KafkaConnection
    from tutelage.transport.group_members import group_members

    connection, deadline = KafkaConnection(**kafka), time.monotonic() + TIMEOUT_S
    while True:
        members = group_members(connection, replica_group(topic), queries_topic(topic))
        owned = {client: partitions for client, _, partitions in members}
        if [len(each) for each in owned.values()] == [PARTITIONS // 2] * 2:
            return next(each for client, each in owned.items() if client.endswith(f"-{victim}"))
        if time.monotonic() > deadline:
            raise TimeoutError(f"the group has {members}")
        time.sleep(0.1)


def _answered_again(kafka: dict[str, Any], topic: str, owned: list[int], killed_s: float) -> None:
    """Wait until each of the partitions has an answer of a second after the death or later."""
    deadline = time.monotonic() + TIMEOUT_S
    while any(times[-1] < killed_s + 1.0 for times in _answers(kafka, topic, owned, 1).values()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"partitions {owned} have no answers after a death")
        time.sleep(0.2)


def _answers(
    kafka: dict[str, Any], topic: str, partitions: list[int], most: int = 1_000_000
) -> dict[int, list[float]]:
    """When the last answers of some partitions were written, in seconds since the epoch."""
    from tutelage.transport.connection import KafkaConnection
    from tutelage.transport.runs import TopicRuns
    from tutelage.transport.topic_admin import KafkaTopic

    connection = KafkaConnection(**kafka)
    ends = KafkaTopic(connection, topic).end_offsets(PARTITIONS)
    found = TopicRuns(connection, topic).messages(
        {number: (max(0, ends[number] - most), ends[number]) for number in partitions}
    )
    return {
        number: [message.timestamp()[1] / 1000 for message in messages]
        for number, messages in found.items()
    }
