"""Ranks under the simulation's faults: restarted writers, zombies, and programs that are killed.

They go on with other numbers of ranks, and every rank gets its rows of the right batches. Planted
bugs are caught.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.rank_programs import check_ranks
from support.schedules import Schedule, examples, healthy

from tutelage.consumers.deal import Deal
from tutelage.consumers.resume_state import ResumeState
from tutelage.consumers.stages.align import Aligned, AlignedEnd
from tutelage.consumers.stages.align_ranks import RankAlign
from tutelage.consumers.stages.order import Order
from tutelage.schemas.errors import TutelageError

WORLDS = (1, 2, 3, 4, 6)
# Every number of ranks divides it.
SIZES = (12, 24)
programs = st.tuples(
    st.builds(replace, healthy, batch_size=st.sampled_from(SIZES), rows=st.integers(1, 80)),
    st.lists(st.sampled_from(WORLDS), min_size=1, max_size=4),
)


@given(programs)
@settings(max_examples=examples(300), deadline=None, suppress_health_check=list(HealthCheck))
def test_ranks_get_their_rows_of_the_right_batches(program: tuple[Schedule, list[int]]) -> None:
    check_ranks(*program)


def _dealt_twice(right: Any, self: Deal, start: int, stop: int) -> Any:
    neighbour = replace(self, rank=(self.rank + 1) % self.ranks)
    late = start >= self.batch_size and self.rank == 0
    return right(neighbour if late else self, start, stop)


def _ends_early_without_rows(right: Any, self: RankAlign) -> Aligned | AlignedEnd:
    found: Aligned | AlignedEnd = right(self)
    return self._end() if isinstance(found, Aligned) and not found.rows else found


def _ends_short(right: Any, self: RankAlign, teacher: int) -> int:
    found: int = right(self, teacher)
    return found - 1 if self._queues[teacher].end is not None else found


def _counts_only_its_own(right: Any, self: Deal, rows: int) -> int:
    found: int = right(self, rows)
    return found - 1 if found > self.share else found


def _one_partition_less(right: Any, self: Order, *args: Any, **options: Any) -> None:
    needed = options.get("needed")
    if needed is not None and len(needed) > 1:
        options["needed"] = frozenset(sorted(needed)[1:])
    right(self, *args, **options)


BUGS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "a unit is dealt twice": (Deal, "parts", _dealt_twice),
    "a rank without rows ends before the others": (RankAlign, "pop", _ends_early_without_rows),
    "the end is taken to be a row earlier": (RankAlign, "_known_rows", _ends_short),
    "a rank counts a row too few after a restart": (Deal, "count", _counts_only_its_own),
    "a partition is not read": (Order, "__init__", _one_partition_less),
    "a state holds the offsets of its own rank": (
        ResumeState,
        "without_offsets",
        lambda right, self, **_: self,
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, change = BUGS[bug]
    right = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args, **options: change(right, *args, **options))
    run = settings(
        max_examples=200, deadline=None, database=None, derandomize=True,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
    )(given(programs)(lambda program: check_ranks(*program)))  # fmt: skip
    with pytest.raises((AssertionError, KeyError, ValueError, TutelageError)):
        run()
