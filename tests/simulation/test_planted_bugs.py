"""The simulation itself is tested: each stage gets a bug, one at a time, and some schedule must show it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.rehearsal import merge_of
from support.schedules import Schedule, damaged, healthy, restarted, unequal
from support.verdicts import check_damaged, check_unequal, check_whole

from tutelage.consumers import resume_state
from tutelage.consumers.position import Position, ResumeIndex
from tutelage.consumers.sources.base import ConsumedRecord
from tutelage.consumers.stages import align, order, rebatch
from tutelage.consumers.stages.align import Align, Aligned, AlignedEnd
from tutelage.consumers.stages.column_buffer import ColumnBuffer
from tutelage.consumers.stages.merge import Merge
from tutelage.consumers.stages.order import Order
from tutelage.consumers.stages.rebatch import Rebatch
from tutelage.schemas.errors import TutelageError

Plant = Callable[[pytest.MonkeyPatch], None]


def _wrapped(owner: Any, name: str, change: Callable[..., Any]) -> Plant:
    """Plant a bug around a function: `change` is given the right one and its arguments."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        right = getattr(owner, name)
        patch.setattr(owner, name, lambda *args, **options: change(right, *args, **options))

    return plant


def _accept_duplicates(right: Any, self: Order, arrival: ConsumedRecord) -> None:
    head, partition = arrival.record.head, arrival.partition
    pass_index, expected = self._expected[partition]
    if (head.pass_index, head.end, head.sequence) == (
        pass_index,
        None,
        expected - self._partitions,
    ) and head.generation:
        self._expected[partition] = (pass_index, head.sequence)
        right(self, arrival)
        self._expected[partition] = (pass_index, expected)
        return
    right(self, arrival)


def _accept_gaps(right: Any, self: Order, arrival: ConsumedRecord) -> None:
    head, (pass_index, expected) = arrival.record.head, self._expected[arrival.partition]
    if head.pass_index == pass_index and head.sequence > expected:
        self._expected[arrival.partition] = (pass_index, head.sequence)
    right(self, arrival)


def _drop_silently(right: Any, self: Order, arrival: ConsumedRecord) -> None:
    before = self.duplicates
    right(self, arrival)
    self.duplicates = min(self.duplicates, before)


def _forget_ends(right: Any, self: Order, arrival: ConsumedRecord, end: Any, expected: Any) -> None:
    right(self, arrival, end, expected)
    # As if one partition's end were every partition's.
    for partition in range(self._partitions):
        self._ends[arrival.record.head.pass_index].offsets.setdefault(
            partition, arrival.next_offset
        )


def _one_too_far(right: Any, partition: int, sequence: int, partitions: int) -> int:
    found: int = right(partition, sequence, partitions)
    return found + partitions if sequence > 2 else found


def _one_row_on(right: Any, self: ResumeIndex, rows: int) -> Position:
    found: Position = right(self, rows)
    return replace(found, row=found.row + 1) if found.row else found


def _one_row_late(right: Any, position: Position, rows_of: Any) -> Any:
    return right(replace(position, row=max(0, position.row - 1)), rows_of)


def _flush_all(right: Any, self: Rebatch, *, ended: bool = False) -> None:
    right(self, ended=True)


def _ignore_mismatch(right: Any, self: Align) -> Aligned | AlignedEnd:
    before, self._truncate = self._truncate, True
    try:
        aligned: Aligned | AlignedEnd = right(self)
    finally:
        self._truncate = before
    return aligned


def _swap_shares(right: Any, self: Align) -> Aligned | AlignedEnd:
    aligned: Aligned | AlignedEnd = right(self)
    if isinstance(aligned, AlignedEnd):
        return aligned
    return replace(aligned, shares=aligned.shares[::-1])


def _a_row_late(right: Any, self: Any, rows: int) -> Any:
    share = right(self, rows)
    return replace(share, start=share.start - 1) if share.start > 2 else share


def _wrong_order(right: Any, self: Merge, plan: Any, arrays: Any) -> Any:
    if plan.key != "x":
        return right(self, plan, arrays)
    return right(self, plan, arrays[::-1])


def _memory_used_twice(right: Any, self: ColumnBuffer, capacity: int) -> None:
    right(self, capacity)
    if not self.ragged:
        kept: dict[int, Any] = self.__dict__.setdefault("_planted", {})
        self._memory = kept.setdefault(capacity, self._memory)


def _offset_behind(right: Any, saved: Mapping[str, Any], *args: Any) -> Position:
    found: Position = right(saved, *args)
    return replace(
        found, offsets=tuple(offset + 1 if offset > 0 else offset for offset in found.offsets)
    )


def _saved_used_up(right: Any, **values: Any) -> Any:
    return right(**{**values, "offset": values["next_offset"]})


def _one_offset_too_far(right: Any, self: Order, known: Any) -> Any:
    found = right(self, known)
    after = found.next_pass
    return replace(
        found, next_pass=replace(after, offsets=tuple(offset + 1 for offset in after.offsets))
    )


def _saved_row_lost(right: Any, *args: Any) -> Any:
    found = right(*args)
    found["position"]["row"] = 0
    return found


BUGS: dict[str, tuple[Plant, st.SearchStrategy[Schedule], Callable[[Schedule], None]]] = {
    "order accepts a duplicate": (_wrapped(Order, "push", _accept_duplicates), healthy, check_whole),
    "order accepts a gap": (_wrapped(Order, "push", _accept_gaps), damaged, check_damaged),
    "order does not count a duplicate": (_wrapped(Order, "push", _drop_silently), healthy, check_whole),
    "order takes one end for all": (_wrapped(Order, "_take_end", _forget_ends), healthy, check_whole),
    "order takes the wrong partition": (
        _wrapped(order, "partition_for", lambda _, sequence, partitions: (sequence + sequence // 8) % partitions),
        healthy,
        check_whole,
    ),
    "order looks for the wrong record after a restart": (
        _wrapped(order, "first_in", _one_too_far),
        restarted,
        check_whole,
    ),
    "order ends a pass an offset too far": (_wrapped(Order, "_ended", _one_offset_too_far), healthy, check_whole),
    "rebatch says a position one row on": (_wrapped(ResumeIndex, "after", _one_row_on), restarted, check_whole),
    "rebatch goes on at the wrong row": (_wrapped(rebatch, "_rows_behind", _one_row_late), restarted, check_whole),
    "rebatch gives a batch that is not whole": (_wrapped(Rebatch, "flush", _flush_all), healthy, check_whole),
    "rebatch says an offset for the next": (_wrapped(rebatch, "RecordSpan", _saved_used_up), restarted, check_whole),
    "align ignores that lengths differ": (_wrapped(Align, "pop", _ignore_mismatch), unequal(), check_unequal),
    "align swaps the shares": (_wrapped(Align, "pop", _swap_shares), healthy, check_whole),
    "align takes a share a row late": (_wrapped(align._Queue, "take", _a_row_late), healthy, check_whole),
    "merge takes the teachers in the wrong order": (_wrapped(Merge, "_merged", _wrong_order), healthy, check_whole),
    "rebatch uses memory again that is held": (_wrapped(ColumnBuffer, "allocate", _memory_used_twice), healthy, check_whole),
    "checkpoint holds the offset behind": (_wrapped(resume_state, "_restored_position", _offset_behind), restarted, check_whole),
    "checkpoint loses the row": (_wrapped(resume_state, "_source_values", _saved_row_lost), restarted, check_whole),
}  # fmt: skip


def _run(
    schedules: st.SearchStrategy[Schedule], check: Callable[[Schedule], None], count: int
) -> None:
    merge_of.cache_clear()
    settings(
        max_examples=count, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
    )(given(schedules)(check))()  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_the_simulation_catches_a_planted_bug(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, schedules, check = BUGS[bug]
    plant(monkeypatch)
    with pytest.raises((AssertionError, KeyError, TutelageError)):
        _run(schedules, check, 1500)


def test_offsets_that_lag_behind_are_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that holds each partition's last offset in place of the next only has a record read again, which is dropped uncounted."""
    _wrapped(
        rebatch,
        "RecordSpan",
        lambda right, **values: right(**{**values, "next_offset": values["offset"]}),
    )(monkeypatch)
    _run(restarted, check_whole, 300)
