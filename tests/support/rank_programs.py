"""Training programs of several ranks that follow a schedule of the simulation: each rank is a student that reads the schedule's logs."""

from __future__ import annotations

import json
import random
import time
from bisect import bisect_left
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from typing import Any

from support.partition_logs import Logs, logs_of
from support.schedules import Schedule, description_of_teacher, expected_of, stream_of_teacher

from tutelage import Source, Student
from tutelage.consumers.position import Position
from tutelage.consumers.sources.base import ConsumedRecord, StreamInfo


class LogSource(Source):
    """A teacher's logs; its partitions run ahead of each other by chance."""

    def __init__(self, schedule: Schedule, index: int, logs: Logs, seed: int) -> None:
        self._info = StreamInfo(
            stream=stream_of_teacher(schedule, index),
            description=description_of_teacher(index, ragged=schedule.ragged),
            schema="",
            partitions=schedule.teachers[index].partitions,
        )
        self._logs = logs
        self._needed: frozenset[int] | None = None
        self._chooser = random.Random(seed)

    @property
    def name(self) -> str:
        return self._info.stream.teacher

    def open(self, timeout_s: float) -> StreamInfo:
        return self._info

    def only(self, partitions: frozenset[int] | None) -> None:
        self._needed = partitions

    def read(self, position: Position) -> Generator[ConsumedRecord | None, None, None]:
        starts = [max(0, offset) for offset in position.offsets] or [0] * len(self._logs)
        lanes = [
            iter(log[bisect_left(log, start, key=lambda each: each.offset) :])
            for partition, (log, start) in enumerate(zip(self._logs, starts, strict=True))
            if self._needed is None or partition in self._needed
        ]
        while lanes:
            lane = self._chooser.choice(lanes)
            arrival = next(lane, None)
            if arrival is None:
                lanes.remove(lane)
            else:
                yield arrival
        while True:
            time.sleep(0.001)
            yield None

    def close(self) -> None:
        return


class RankProgram:
    """Programs of some ranks, one behind the other; each goes on from a state of the one before."""

    def __init__(self, schedule: Schedule, worlds: Sequence[int]) -> None:
        self.schedule = schedule
        self.given: list[list[dict[str, list[Any]]]] = []
        self._chooser = random.Random(schedule.seed + 7)
        self._logs = logs_of(schedule)
        self._worlds = worlds

    def run(self) -> None:
        """Until the end of the last pass."""
        state = None
        for number, world in enumerate(self._worlds):
            last = number == len(self._worlds) - 1
            steps = None if last else self._chooser.randrange(4)
            state = self._of(world, state, steps)
            if state["pass_index"] == self.schedule.passes:
                break

    def _of(self, world: int, state: Any, steps: int | None) -> dict[str, Any]:
        with ExitStack() as stack:
            ranks = [stack.enter_context(self._rank(rank, world, state)) for rank in range(world)]
            done = 0
            while done != steps:
                states = [rank.state_dict() for rank in ranks]
                if states[0]["pass_index"] == self.schedule.passes:
                    break
                batches = [
                    rank.knowledge(
                        global_batch_size=self.schedule.batch_size,
                        drop_last=self.schedule.drop_last,
                    )
                    for rank in ranks
                ]
                for each in batches:
                    stack.callback(each.close)
                while done != steps:
                    step = [next(each, None) for each in batches]
                    if None in step:
                        assert step == [None] * world, "ranks differ in their number of batches"
                        break
                    self.given.append(
                        [
                            {key: value.tolist() for key, value in batch.items()}
                            for batch in step
                            if batch is not None
                        ]
                    )
                    done += 1
                if done != steps:
                    for each in batches:
                        each.close()
            chosen = self._chooser.choice(ranks).state_dict()
            if world > 1:
                assert all(rank.state_dict() == chosen for rank in ranks), "states differ"
            found: dict[str, Any] = json.loads(json.dumps(chosen))
            return found

    def _rank(self, rank: int, world: int, state: Any) -> Student:
        schedule = self.schedule
        merge = {"x": schedule.merge, **({} if schedule.sample_id else {"id": "first"})}
        student = Student(
            merge,
            sample_id="id" if schedule.sample_id else None,
            timeout_s=20,
            shard=(rank, world),
        )
        for index, logs in enumerate(self._logs):
            student.register_teacher(
                LogSource(schedule, index, logs, schedule.seed + 100 * rank + index)
            )
        if state is not None:
            student.load_state_dict(state)
        return student


def check_ranks(schedule: Schedule, worlds: Sequence[int]) -> None:
    """All ranks together get the batches that arithmetic says, each row once."""
    program = RankProgram(schedule, worlds)
    program.run()
    expected = [_rows(batch) for batch in expected_of(schedule)]
    found = []
    for parts in program.given:
        rows = [row for part in parts for row in _rows(part)]
        found.append(sorted(rows, key=lambda row: int(row["id"])))
    assert found == expected, (worlds, schedule)


def _rows(batch: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """The rows of a batch, without their padding."""
    rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
    for row in rows:
        if "tokens" in row:
            row["tokens"] = row["tokens"][: row["tokens.lengths"]]
    return rows
