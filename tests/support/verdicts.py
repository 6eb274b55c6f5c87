"""Whether what a student of a schedule was given is right: the batches that arithmetic says, or an error behind the last right one."""

from __future__ import annotations

from typing import Any

import torch
from support.partition_logs import logs_of
from support.rehearsal import Rehearsal
from support.schedules import Schedule, expected_of

from tutelage.consumers.stages.merge import Batch
from tutelage.schemas.errors import DataError, LengthMismatch


def values_of(batch: Batch) -> dict[str, list[Any]]:
    """A batch as plain values; its dtypes are looked at here."""
    for key, tensor in batch.items():
        assert tensor.dtype in (torch.int64, torch.float64), (key, tensor.dtype)
    return {key: tensor.tolist() for key, tensor in batch.items()}


def refuse_wrong(rehearsal: Rehearsal, *, whole: int | None = None) -> None:
    """AssertionError unless the batches are the first ones of those expected, and `whole` of them."""
    expected = expected_of(rehearsal.schedule)
    found = [values_of(batch) for batch in rehearsal.delivered]
    for index, (batch, wanted) in enumerate(zip(found, expected, strict=False)):
        same = batch == wanted and list(batch) == list(wanted)
        assert same, f"batch {index} is {batch}, not {wanted}, in {rehearsal.schedule}"
    wanted_count = len(expected) if whole is None else whole
    assert len(found) == wanted_count, (
        f"{len(found)} batches came, not {wanted_count}, in {rehearsal.schedule}"
    )


def check_whole(schedule: Schedule) -> None:
    """Everything comes, bit for bit."""
    rehearsal = Rehearsal(schedule)
    rehearsal.run()
    assert rehearsal.finished, f"the student waits for ever in {schedule}"
    refuse_wrong(rehearsal)


def check_interrupted(schedule: Schedule) -> None:
    """What is whole comes, then the student waits."""
    rehearsal = Rehearsal(schedule)
    rehearsal.run()
    if rehearsal.finished:
        refuse_wrong(rehearsal)
    else:
        refuse_wrong(rehearsal, whole=_whole_batches(schedule))


def _whole_batches(schedule: Schedule) -> int:
    """The batches that can be made of what is there of an interrupted run."""
    size, found = schedule.batch_size, 0
    short = 0 if schedule.drop_last else 1
    logs = logs_of(schedule)
    for pass_index in range(schedule.passes):
        rows, ended = schedule.rows, True
        for index, taught in enumerate(schedule.teachers):
            here = {
                (
                    arrival.partition,
                    arrival.record.head.sequence,
                    arrival.record.head.end is not None,
                )
                for log in logs[index]
                for arrival in log
                if arrival.record.head.pass_index == pass_index
            }
            count = -(-schedule.rows // taught.rows_per_record)
            there = 0
            while there < count and (there % taught.partitions, there, False) in here:
                there += 1
            rows = min(rows, there * taught.rows_per_record)
            ended &= there == count and all(
                (partition, count, True) in here for partition in range(taught.partitions)
            )
        found += rows // size
        if not ended:
            break
        found += short * (rows % size > 0)
    return found


def check_damaged(schedule: Schedule) -> None:
    """A DataError comes, and before it only what is right."""
    rehearsal = Rehearsal(schedule)
    try:
        rehearsal.run()
    except DataError:
        rehearsal.give_what_is_whole()
    else:
        raise AssertionError(
            f"nobody noticed what is wrong: finished {rehearsal.finished} in {schedule}"
        )
    refuse_wrong(rehearsal, whole=len(rehearsal.delivered))


def check_unequal(schedule: Schedule) -> None:
    """Teachers of different length are truncated if asked for, and else refused before the batch in which they differ."""
    if schedule.truncate:
        check_whole(schedule)
        return
    rehearsal = Rehearsal(schedule)
    try:
        rehearsal.run()
    except LengthMismatch:
        refuse_wrong(rehearsal, whole=schedule.shortest // schedule.batch_size)
    else:
        raise AssertionError(f"the teachers' lengths differ and nobody noticed in {schedule}")
