"""What lies in the partitions of a schedule's teachers: the records, written again by restarted writers and zombies, cut and damaged.

Damage is a record that is gone, or whose head is not what a teacher would have written; it is the same in every copy of it.
"""

from __future__ import annotations

import random
from dataclasses import replace

from support.schedules import Schedule, record_of

from tutelage.consumers.sources.base import ConsumedRecord
from tutelage.schemas.record import End, RecordHead

Logs = list[list[ConsumedRecord]]


def heads_of(schedule: Schedule, index: int) -> list[list[RecordHead]]:
    """What each partition of a teacher holds when nothing goes wrong."""
    one, rows = schedule.teachers[index], schedule.rows + schedule.teachers[index].more_rows
    size, count = one.rows_per_record, -(-rows // one.rows_per_record)
    partitions: list[list[RecordHead]] = [[] for _ in range(one.partitions)]
    for pass_index in range(schedule.passes):
        for sequence in range(count):
            partitions[sequence % one.partitions].append(
                RecordHead(
                    run_id=f"run{index}",
                    pass_index=pass_index,
                    sequence=sequence,
                    generation=0,
                    rows=min(size, rows - sequence * size),
                )
            )
        end = RecordHead(
            run_id=f"run{index}",
            pass_index=pass_index,
            sequence=count,
            rows=0,
            generation=0,
            end=End(records=count, rows=rows),
        )
        for partition in partitions:
            partition.append(end)
    return partitions


def written(
    schedule: Schedule, heads: list[RecordHead], chooser: random.Random
) -> list[RecordHead]:
    """A partition's log: its records as writers wrote them who died and came back, and others who did not know they were dead."""
    if not schedule.rewrites and not schedule.zombies:
        return heads
    log: list[RecordHead] = []
    at, generation = 0, 0
    while at < len(heads):
        log.append(replace(heads[at], generation=generation))
        at += 1
        if chooser.randrange(100) < schedule.rewrites:
            generation += 1
            at -= chooser.randint(0, min(at, 3))
        if generation and chooser.randrange(100) < schedule.zombies:
            # It goes on where it was, which may be before or even at what comes next.
            first = chooser.randint(0, at)
            log += [
                replace(head, generation=chooser.randrange(generation))
                for head in heads[first : min(at + 1, first + chooser.randint(1, 4))]
            ]
    return log


def arrivals_in(
    schedule: Schedule, index: int, partition: int, log: list[RecordHead]
) -> list[ConsumedRecord]:
    """A partition's log as a source gives it."""
    size, found = schedule.teachers[index].rows_per_record, []
    for at, head in enumerate(log):
        offset = at // schedule.block * schedule.stride
        final = (at + 1) % schedule.block == 0 or at + 1 == len(log)
        found.append(
            ConsumedRecord(
                partition=partition,
                offset=offset,
                next_offset=offset + schedule.stride if final else offset,
                record=record_of(index, schedule.ragged, head, head.sequence * size),
                where=f"partition {partition}, {at}",
            )
        )
    return found


def logs_of(schedule: Schedule) -> list[Logs]:
    """Each teacher's partitions as they lie in its topic, with what the schedule says is wrong."""
    chooser = random.Random(schedule.seed)
    heads = [heads_of(schedule, index) for index in range(len(schedule.teachers))]
    if schedule.damage:
        _damage(schedule, heads, chooser)
    logs = [[written(schedule, log, chooser) for log in teacher] for teacher in heads]
    for _ in range(schedule.cut):
        log = chooser.choice(chooser.choice(logs))
        if log:
            log.pop()
    return [
        [arrivals_in(schedule, index, partition, log) for partition, log in enumerate(teacher)]
        for index, teacher in enumerate(logs)
    ]


def _damage(
    schedule: Schedule, heads: list[list[list[RecordHead]]], chooser: random.Random
) -> None:
    """Do to one record, and so to every copy that is written of it, what the schedule says."""
    index = chooser.randrange(len(heads))
    partitions = heads[index]
    wants_end = schedule.damage.startswith("end")
    places = [
        (partition, at)
        for partition, log in enumerate(partitions)
        for at, head in enumerate(log)
        if (head.end is not None) == wants_end
    ]
    partition, at = chooser.choice(places)
    log, head = partitions[partition], partitions[partition][at]
    count = len(partitions)
    if schedule.damage == "removed" or (schedule.damage == "shorter" and head.rows == 1):
        del log[at]
    elif schedule.damage == "partition" and count > 1:
        del log[at]
        other = partitions[(partition + 1) % count]
        other.insert(chooser.randint(0, len(other) - 1), head)
    else:
        log[at] = altered(head, schedule.damage, count)


def altered(head: RecordHead, damage: str, partitions: int) -> RecordHead:
    """A head with one thing wrong."""
    if damage == "run":
        return replace(head, run_id="another")
    if damage == "earlier" and head.sequence >= partitions:
        return replace(head, sequence=head.sequence - partitions)
    if damage == "next pass":
        return replace(head, pass_index=head.pass_index + 1)
    if damage == "shorter":
        return replace(head, rows=head.rows - 1)
    if head.end is not None and damage == "end records":
        return replace(
            head,
            sequence=head.sequence + 1,
            end=End(records=head.end.records + 1, rows=head.end.rows),
        )
    if head.end is not None:
        return replace(head, end=End(records=head.end.records, rows=head.end.rows + 1))
    return replace(head, sequence=head.sequence + partitions)
