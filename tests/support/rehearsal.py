"""A student without threads, sources or clocks: the pure stages together, driven step by step as a schedule says.

What the threads of `chain.py` do is done here one step at a time, in any order a schedule's seed gives; a kill throws all of it away
and begins anew from the last state that was saved, as JSON. What was delivered is judged in `verdicts.py`.
"""

from __future__ import annotations

import json
import random
from bisect import bisect_left
from collections import deque
from dataclasses import replace
from functools import lru_cache

from support.partition_logs import Logs, logs_of
from support.schedules import Schedule, description_of_teacher, stream_of_teacher

from tutelage.consumers.position import Position, positions_after
from tutelage.consumers.resume_state import ResumeState, from_state_dict, to_state_dict
from tutelage.consumers.sources.base import ConsumedRecord, StreamInfo
from tutelage.consumers.sources.memory import MemorySource
from tutelage.consumers.stages.align import Align, AlignedEnd
from tutelage.consumers.stages.chunk import Chunk
from tutelage.consumers.stages.merge import Batch, Merge
from tutelage.consumers.stages.merge_stage import Merged
from tutelage.consumers.stages.order import Order, PassEnd
from tutelage.consumers.stages.rebatch import Rebatch
from tutelage.transport.memory_topic import MemoryTopic

# What the student adds to its state.
SETTINGS = {"merge": {"x": "sum"}, "sample_id": None, "on_length_mismatch": "error"}


class Ledger:
    """What an order must have made of what it was given: each record is the first of its number, another one of it, or read again."""

    def __init__(self, position: Position) -> None:
        self._start = (position.pass_index, position.sequence)
        self._seen: set[tuple[int, int, int, bool]] = set()
        self._newest: dict[int, int] = {}
        self.records = self.duplicates = self.zombies = 0

    def enter(self, arrival: ConsumedRecord) -> None:
        """Note an arrival."""
        head, partition = arrival.record.head, arrival.partition
        if (head.pass_index, head.sequence) < self._start:
            return
        key = (partition, head.pass_index, head.sequence, head.end is not None)
        if key in self._seen:
            self.duplicates += 1
            return
        self._seen.add(key)
        self.records += head.end is None
        self.zombies += head.generation < self._newest.get(partition, 0)
        self._newest[partition] = max(self._newest.get(partition, 0), head.generation)


class Desk:
    """One teacher's records on their way to the aligner, from a position on."""

    def __init__(
        self, schedule: Schedule, index: int, opened: StreamInfo, logs: Logs, position: Position
    ) -> None:
        self.order = Order(opened.stream, opened.partitions, position)
        self.rebatch = Rebatch(
            schedule.batch_size,
            description=opened.description,
            partitions=opened.partitions,
            position=position,
            chunk_bytes=schedule.chunk_bytes,
        )
        starts = [max(0, offset) for offset in position.offsets] or [0] * len(logs)
        self.lanes = [
            iter(log[bisect_left(log, start, key=lambda arrival: arrival.offset) :])
            for log, start in zip(logs, starts, strict=True)
        ]
        self.open = list(range(len(logs)))
        self.ready: deque[Chunk | PassEnd] = deque()
        self.ledger = Ledger(position)
        self.taken = 0

    def read(self, partition: int, *, flush: bool) -> None:
        """Take one record of a partition in, and hand on what is full, or with `flush` what is whole."""
        arrival = next(self.lanes[partition], None)
        if arrival is None:
            self.open.remove(partition)
            return
        self.order.push(arrival)
        self.ledger.enter(arrival)
        while (item := self.order.pop()) is not None:
            self.rebatch.push(item)
            self.hand_on(flush=flush)
            if isinstance(item, PassEnd):
                self.ready.append(item)
                self.open.clear()
                return
            self.taken += 1

    def hand_on(self, *, flush: bool) -> None:
        """Give the chunks that are full, and with `flush` what is whole of the next."""
        if flush and self.rebatch.has_whole_batches:
            self.rebatch.flush()
        while (chunk := self.rebatch.pop()) is not None:
            self.ready.append(chunk)


@lru_cache(maxsize=1000)
def merge_of(teachers: int, merge: str, sample_id: bool, ragged: bool) -> Merge:
    """A schedule's merge."""
    return Merge(
        [f"teacher{index}" for index in range(teachers)],
        [description_of_teacher(index, ragged=ragged) for index in range(teachers)],
        {"x": merge, **({} if sample_id else {"id": "first"})},
        sample_id="id" if sample_id else None,
    )


class Rehearsal:
    """A student that follows a schedule, through kills and passes, until the last pass's end or until nothing more comes."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.delivered: list[Batch] = []
        self.finished = False
        self._chooser = random.Random(schedule.seed + 1)
        self._logs = logs_of(schedule)
        count = len(schedule.teachers)
        self._opened = [
            StreamInfo(
                stream=stream_of_teacher(schedule, index),
                description=description_of_teacher(index, ragged=schedule.ragged),
                schema="",
                partitions=schedule.teachers[index].partitions,
            )
            for index in range(count)
        ]
        self._sources = [MemorySource(MemoryTopic(name=f"topic{index}")) for index in range(count)]
        self._merge = merge_of(count, schedule.merge, schedule.sample_id, schedule.ragged)
        self._restarts = schedule.restarts
        self._begin(ResumeState())
        self._save()

    def run(self) -> None:
        """Until the end, or an error."""
        # About so many steps of a pass have a kill in them.
        steps = sum(len(log) for teacher in self._logs for log in teacher) + 1
        while not self.finished:
            lanes = [(desk, partition) for desk in self._desks for partition in desk.open]
            if self._restarts and self._chooser.randrange(steps) < self._restarts:
                self._restarts -= 1
                self._kill()
                continue
            if not lanes:
                for desk in self._desks:
                    desk.hand_on(flush=True)
                if not self._deliver():
                    return
                continue
            desk, partition = self._chooser.choice(lanes)
            # Partitions run ahead of each other, by more than a record.
            for _ in range(self._chooser.choice((1, 1, 2, 5))):
                if partition in desk.open:
                    desk.read(partition, flush=self._chooser.randrange(100) < self.schedule.flushes)
            self._deliver()

    def give_what_is_whole(self) -> None:
        """After an error: what was whole before it is still delivered."""
        for desk in self._desks:
            desk.hand_on(flush=True)
        self._deliver()

    def _begin(self, state: ResumeState) -> None:
        self._state = state
        positions = state.positions_of(len(self._sources))
        self._desks = [
            Desk(self.schedule, index, opened, self._logs[index], positions[index])
            for index, opened in enumerate(self._opened)
        ]
        names = [opened.stream.teacher for opened in self._opened]
        self._align = Align(
            names,
            self.schedule.batch_size,
            positions,
            first_row=state.rows,
            truncate=self.schedule.truncate,
            drop_last=self.schedule.drop_last,
        )

    def _save(self) -> None:
        self._state = replace(
            self._state, batch_size=self.schedule.batch_size, drop_last=self.schedule.drop_last
        )
        self._saved = (
            json.dumps(to_state_dict(self._state, self._sources, self._opened, SETTINGS)),
            len(self.delivered),
        )

    def _kill(self) -> None:
        self._audit()
        state, delivered = self._saved
        # What came behind the state is given again.
        del self.delivered[delivered:]
        restored = from_state_dict(json.loads(state), self._sources, self._opened, SETTINGS)
        restored.check_fits(self.schedule.batch_size, self.schedule.drop_last, None)
        assert (
            json.dumps(to_state_dict(restored, self._sources, self._opened, SETTINGS)) == state
        ), self.schedule
        self._begin(restored)

    def _deliver(self) -> bool:
        """Give every batch that is ready; whether there was one, or a pass ended."""
        given = False
        while (merged := self._next()) is not None:
            given = True
            if isinstance(merged, AlignedEnd):
                self._audit()
                following = self._state.next_pass(merged.positions)
                if following.pass_index == self.schedule.passes:
                    self.finished = True
                    return True
                self._begin(following)
                if self._chooser.randrange(100) < self.schedule.saves:
                    self._save()
                return True
            rows_given = 0
            for batch in merged.batches:
                rows = len(batch["x"])
                rows_given += rows
                self._state = replace(
                    self._state,
                    batches=self._state.batches + 1,
                    rows=self._state.rows + rows,
                    positions=positions_after(merged.resume, rows_given),
                )
                self.delivered.append(batch)
                if self._restarts and self._chooser.randrange(100) < self.schedule.saves:
                    self._save()
        return given

    def _next(self) -> Merged | AlignedEnd | None:
        """What the stages of `Chain` do where they wait for nobody."""
        while starving := self._align.starving():
            for index in starving:
                if not self._desks[index].ready:
                    return None
                self._align.push(index, self._desks[index].ready.popleft())
        aligned = self._align.pop()
        if isinstance(aligned, AlignedEnd):
            return aligned
        return Merged(
            batches=self._merge.batches(aligned, self.schedule.batch_size),
            resume=tuple(share.resume for share in aligned.shares),
            nbytes=0,
            global_rows=aligned.global_rows,
        )

    def _audit(self) -> None:
        """Every record that was read is accounted for; not where one was altered, and may pass for one written twice before its gap shows."""
        if self.schedule.damage:
            return
        for desk in self._desks:
            order, ledger = desk.order, desk.ledger
            counted = (order.duplicates, order.zombies)
            assert counted == (ledger.duplicates, ledger.zombies), (
                f"{counted} were counted in {self.schedule}"
            )
            assert desk.taken <= ledger.records, (
                f"{desk.taken} records of {ledger.records} came out in {self.schedule}"
            )
            assert (order.pending_bytes == 0) == (desk.taken == ledger.records), (
                f"records were dropped in {self.schedule}"
            )
