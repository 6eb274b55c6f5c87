"""Schedules for the simulation: what teachers, writers that die and students that are killed did, drawn by hypothesis.

A schedule is plain numbers. From them and its seed follow the partitions' logs (`partition_logs.py`), with records written again by restarted
writers, zombies' records and damage in them, and the batches a student must get (`expected_of`), which are calculated here by row
arithmetic alone and know none of the product's stages.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tutelage.schemas.codec import Codec
from tutelage.schemas.record import Column, Description, KeySpec, Ragged, Record, RecordHead, Stream

MERGES = ("sum", "first", "stack", "concat", "max", "mean")
DAMAGES = (
    "removed",
    "run",
    "later",
    "earlier",
    "next pass",
    "partition",
    "end records",
    "end rows",
    "shorter",
)

Batches = list[dict[str, list[Any]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Taught:
    """One teacher: P, R, and how many rows it has more than the schedule says."""

    partitions: int
    rows_per_record: int
    more_rows: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """What happens. `flushes`, `rewrites`, `zombies`, `saves` are in percent of the steps at which they may happen.

    `block` records have one offset together, as in a file's block, and offsets go up by `stride` a block; `restarts` says how often the
    student is killed, `cut` how many records are missing at the partitions' ends, `damage` what else is wrong with one record.
    """

    teachers: tuple[Taught, ...]
    rows: int
    passes: int
    batch_size: int
    chunk_bytes: int
    merge: str
    sample_id: bool
    ragged: bool
    drop_last: bool
    block: int
    stride: int
    flushes: int
    seed: int
    rewrites: int = 0
    zombies: int = 0
    restarts: int = 0
    saves: int = 50
    cut: int = 0
    damage: str = ""
    truncate: bool = False

    @property
    def shortest(self) -> int:
        """The rows all teachers have."""
        return self.rows + min(taught.more_rows for taught in self.teachers)


def examples(count: int) -> int:
    """So many schedules, or as the environment says: TUTELAGE_SCHEDULES is the number of all the tests' schedules together."""
    return max(1, int(os.environ.get("TUTELAGE_SCHEDULES", "10000")) * count // 10_000)


taught = st.builds(Taught, partitions=st.integers(1, 4), rows_per_record=st.integers(1, 5))
percents = st.sampled_from((0, 10, 30))
healthy = st.builds(
    Schedule,
    teachers=st.lists(taught, min_size=1, max_size=3).map(tuple),
    rows=st.integers(0, 24),
    passes=st.integers(1, 3),
    batch_size=st.integers(1, 7),
    chunk_bytes=st.sampled_from((0, 1, 100, 400, 4000)),
    merge=st.sampled_from(MERGES),
    sample_id=st.booleans(),
    ragged=st.booleans(),
    drop_last=st.booleans(),
    block=st.integers(1, 3),
    stride=st.integers(1, 2),
    flushes=st.sampled_from((0, 20, 100)),
    rewrites=percents,
    zombies=percents,
    seed=st.integers(0, 2**32 - 1),
)
restarted = st.builds(
    replace, healthy, restarts=st.integers(1, 4), saves=st.sampled_from((20, 60, 100))
)
interrupted = st.builds(replace, healthy, restarts=st.integers(0, 2), cut=st.integers(1, 6))
damaged = st.builds(replace, healthy, rows=st.integers(1, 24), damage=st.sampled_from(DAMAGES))


@st.composite
def unequal(draw: st.DrawFn) -> Schedule:
    """Teachers of different length, to be truncated or refused, students killed meanwhile."""
    first, second = draw(taught), replace(draw(taught), more_rows=draw(st.integers(1, 9)))
    teachers = (first, second) if draw(st.booleans()) else (second, first)
    return replace(
        draw(healthy),
        teachers=teachers,
        truncate=draw(st.booleans()),
        restarts=draw(st.integers(0, 2)),
    )


def description_of_teacher(index: int, *, ragged: bool) -> Description:
    """Every teacher has `id` and `x`, and a key of its own; the first a ragged one if asked for."""
    keys = [KeySpec(key="id", dtype="int64", shape=()), KeySpec(key="x", dtype="int64", shape=(1,))]
    keys.append(KeySpec(key=f"own{index}", dtype="int64", shape=(2,)))
    if ragged and index == 0:
        keys.append(KeySpec(key="tokens", dtype="int64", shape=(-1,)))
    return Description(tuple(keys))


def stream_of_teacher(schedule: Schedule, index: int) -> Stream:
    """The identity of teacher `index`."""
    one = schedule.teachers[index]
    return Stream(
        run_id=f"run{index}",
        teacher=f"teacher{index}",
        revision="",
        inputs_fingerprint="",
        passes=schedule.passes,
        partitions=one.partitions,
        rows_per_record=one.rows_per_record,
        created=0.0,
        version="test",
    )


def _x(teacher: int, pass_index: int, row: int) -> int:
    return 1_000_000 * teacher + 10_000 * pass_index + 7 * row


def _tokens(pass_index: int, row: int) -> list[int]:
    return [100 * row + place + 1 for place in range((row + pass_index) % 3)]


def columns_of(
    teacher: int, pass_index: int, start: int, stop: int, *, ragged: bool
) -> dict[str, list[Column]]:
    """A record's columns."""
    rows = range(start, stop)
    x = np.array([_x(teacher, pass_index, row) for row in rows], np.int64)
    columns: dict[str, list[Column]] = {
        "id": [np.arange(start, stop) + 10_000 * pass_index],
        "x": [x.reshape(-1, 1)],
        f"own{teacher}": [np.stack([x, -x], axis=1)],
    }
    if ragged and teacher == 0:
        tokens = [_tokens(pass_index, row) for row in rows]
        values = np.array([token for one in tokens for token in one], np.int64)
        columns["tokens"] = [Ragged(values, np.array([len(one) for one in tokens], np.int64))]
    return columns


@lru_cache(maxsize=100_000)
def record_of(teacher: int, ragged: bool, head: RecordHead, start: int) -> Record:
    """The record with that head, through the codec and back; its rows begin at row `start` of the pass."""
    codec = Codec(description_of_teacher(teacher, ragged=ragged))
    columns = (
        {}
        if head.end
        else columns_of(teacher, head.pass_index, start, start + head.rows, ragged=ragged)
    )
    return codec.decode(codec.encode(head, columns).joined(), "simulation")


def expected_of(schedule: Schedule) -> Batches:
    """The batches of all passes, by arithmetic."""
    count, rows = len(schedule.teachers), schedule.shortest
    found: Batches = []
    for pass_index in range(schedule.passes):
        for start in range(0, rows, schedule.batch_size):
            batch = range(start, min(start + schedule.batch_size, rows))
            if schedule.drop_last and len(batch) < schedule.batch_size:
                continue
            xs = [[_x(teacher, pass_index, row) for teacher in range(count)] for row in batch]
            columns: dict[str, list[Any]] = {
                "id": [10_000 * pass_index + row for row in batch],
                "x": [_merged(schedule.merge, one) for one in xs],
            }
            for teacher in range(count):
                columns[f"own{teacher}"] = [[one[teacher], -one[teacher]] for one in xs]
                if schedule.ragged and not teacher:
                    tokens = [_tokens(pass_index, row) for row in batch]
                    longest = max(map(len, tokens))
                    columns["tokens"] = [one + [0] * (longest - len(one)) for one in tokens]
                    columns["tokens.lengths"] = [len(one) for one in tokens]
            found.append(columns)
    return found


def _merged(merge: str, values: list[int]) -> list[Any]:
    if len(values) == 1 or merge == "first":
        return values[:1]
    if merge == "stack":
        return [[value] for value in values]
    results: dict[str, list[Any]] = {
        "sum": [sum(values)],
        "max": [max(values)],
        "mean": [sum(values) / len(values)],
    }
    return results.get(merge, values)
