"""The benchmark of replicas: how queries spread over them, and what a round of asking costs.

The model sleeps, as one on a GPU does for its caller. The group has all of its members before the
clock starts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks import replica_deaths
from benchmarks.actors import TIMEOUT_S, Gate, together
from benchmarks.bench import Bench
from benchmarks.measure import Comparison, Goal, Sample, Side
from benchmarks.scale import Scale
from benchmarks.start import QUANTILES

PARTITIONS, ROWS = 8, 4
_COUNTS = (1, 2, 4)
_MODEL_S = 0.1
# The first rounds open the streams. They are not counted.
_OPENING_ROUNDS = 10
# Of ideal scaling.
_LEAST = 0.95


def comparisons(bench: Bench, scale: Scale) -> Iterator[Comparison]:
    """The comparisons: 1, 2 and 4 replicas; the rounds of one; deaths."""
    queries = PARTITIONS * max(1, scale.lone_batches // 10)
    names = ["1 replica", *(f"{count} replicas" for count in _COUNTS[1:])]
    yield Comparison(
        title=f"replicas: {PARTITIONS} partitions, a model of {1000 * _MODEL_S:.0f} ms a query",
        sides=[
            Side(
                name=name,
                run=partial(_spread, bench, queries, count),
                goals=(Goal(other=names[0], at_least=_LEAST * count),) if count > 1 else (),
            )
            for name, count in zip(names, _COUNTS, strict=True)
        ],
    )
    rounds: list[list[float]] = []
    yield Comparison(
        title="replicas: a round without a model: asked, answered, read (goal: p50 10 ms, p99 25 ms)",
        times=True,
        sides=[
            Side(name=name, run=partial(_round, bench, scale.lone_batches, rounds, name))
            for name in QUANTILES
        ],
    )
    yield from replica_deaths.comparisons(bench, scale)


def _spread(bench: Bench, queries: int, count: int) -> Sample:
    topic = bench.topic(PARTITIONS)
    done = together(
        [
            (bench.actor("student"), ask, (bench.kafka, topic, queries, count)),
            *(
                (bench.actor(f"replica {number}"), answer, (bench.kafka, topic, _MODEL_S))
                for number in range(count)
            ),
        ]
    )
    return Sample(
        seconds=done["student"].value,
        nbytes=queries * ROWS * 8,
        units=queries,
        cpu_s={name: one.cpu_s for name, one in done.items()},
        peak_rss={name: one.peak_rss for name, one in done.items()},
    )


def _round(bench: Bench, count: int, rounds: list[list[float]], name: str) -> Sample:
    """One quantile of the rounds; the first quantile of a round of the benchmark measures them."""
    if name == next(iter(QUANTILES)):
        topic = bench.topic(PARTITIONS)
        done = together(
            [
                (bench.actor("student"), ask_in_turn, (bench.kafka, topic, count)),
                (bench.actor("replica 0"), answer, (bench.kafka, topic, 0.0)),
            ]
        )
        rounds.append(done["student"].value[min(_OPENING_ROUNDS, count // 2) :])
    return Sample(seconds=QUANTILES[name](rounds[-1]), nbytes=ROWS * 8, units=1)


def answer(gate: Gate, kafka: dict[str, Any], topic: str, model_s: float) -> None:
    """A replica, whose model sleeps."""
    from tutelage import KafkaSink, Teacher

    def model(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        time.sleep(model_s)
        return {"y": batch["x"] + 1}

    gate.ready()
    teacher = Teacher(KafkaSink(topic, **kafka), name="teacher")
    teacher.answer(model, f"{topic}.queries", max_rows=ROWS, timeout_s=TIMEOUT_S)


def ask(gate: Gate, kafka: dict[str, Any], topic: str, queries: int, replicas: int) -> float:
    """Write queries once all replicas own partitions. Returns how long their answers took."""
    from tutelage import KafkaSink, KafkaSource, QueryWriter, Student
    from tutelage.schemas.queries import queries_topic, replica_group
    from tutelage.transport.group_members import group_members

    sink = KafkaSink(queries_topic(topic), partitions=PARTITIONS, **kafka)
    source = KafkaSource(topic, **kafka)
    gate.ready()
    student = Student(timeout_s=TIMEOUT_S)
    student.register_teacher(source)
    with QueryWriter(sink, rows_per_record=ROWS) as writer, student:
        writer.write({"x": torch.arange(PARTITIONS * ROWS)})
        batches = iter(student.knowledge(ROWS))
        for _ in range(PARTITIONS):
            next(batches)
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            members = group_members(source.connection, replica_group(topic), queries_topic(topic))
            owned = [len(partitions) for _, _, partitions in members]
            if len(owned) == replicas and sorted(owned)[0] == PARTITIONS // replicas:
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"the group has members with {owned} partitions")
            time.sleep(0.1)
        began = time.perf_counter()
        writer.write({"x": torch.arange(queries * ROWS)})
        for _ in range(queries):
            next(batches)
        seconds = time.perf_counter() - began
        writer.end()
        return seconds


def ask_in_turn(gate: Gate, kafka: dict[str, Any], topic: str, count: int) -> list[float]:
    """Ask one query after the other. Returns the seconds of each round."""
    from tutelage import KafkaSink, KafkaSource, OnPolicy, QueryWriter, Student
    from tutelage.schemas.queries import queries_topic

    sink = KafkaSink(queries_topic(topic), partitions=PARTITIONS, **kafka)
    student = Student(sample_id="query_id", timeout_s=TIMEOUT_S)
    for name in (queries_topic(topic), topic):
        student.register_teacher(KafkaSource(name, **kafka))
    gate.ready()
    found = []
    with QueryWriter(sink, rows_per_record=ROWS) as writer, student:
        loop = OnPolicy(
            student,
            writer,
            lambda step: {"x": torch.arange(ROWS)},
            batch_size=ROWS,
            steps=count,
            max_policy_lag=0,
        )
        before = time.perf_counter()
        for _ in loop:
            now = time.perf_counter()
            found.append(now - before)
            before = now
    return found
