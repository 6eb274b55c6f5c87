"""Replicas under every schedule: partitions that change hands, zombies, deaths, restarted writers.

A student reads every answer once and in order. Planted bugs are caught.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.replica_schedules import Program, Replica, Replicas, check_replicas
from support.schedules import examples

from tutelage.producers.answers.query import PartitionOrder, Query
from tutelage.schemas.errors import TutelageError
from tutelage.schemas.record import RecordHead


def programs_of(fewest_acts: int) -> st.SearchStrategy[Program]:
    """Schedules with at least so many acts."""
    act = st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(0, 2))
    return st.builds(
        Program,
        partitions=st.integers(1, 3),
        records=st.integers(1, 12),
        replicas=st.integers(1, 3),
        repeats=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 6)), max_size=2),
        acts=st.lists(act, min_size=fewest_acts, max_size=80),
    )


@given(programs_of(0) | programs_of(40))
@settings(max_examples=examples(400), deadline=None, suppress_health_check=list(HealthCheck))
def test_a_student_reads_every_answer_once_whoever_owned_its_partition(program: Program) -> None:
    check_replicas(program)


class TrustsTheCommittedOffset(Replicas):
    """Goes on behind what was read, not behind what was answered."""

    def assign(self, replica: Replica, partition: int) -> None:
        offset = self._committed[partition]
        lost = self.queries[partition][:offset]
        missing = (0, partition + self._program.partitions * len(lost))
        replica.orders[partition] = PartitionOrder(partition, self._program.partitions, missing, 1)
        replica.offsets[partition] = offset


class MisreadsTheTail(Replicas):
    """Takes the last answer for the next but one."""

    def missing(self, partition: int) -> tuple[int, int]:
        pass_index, sequence = super().missing(partition)
        further = self._program.partitions if self.answers[partition] and not pass_index else 0
        return pass_index, sequence + further


class NumbersItsAnswers(Replicas):
    """Writes answers under numbers of its own."""

    def answer(self, replica: Replica, query: Query) -> RecordHead:
        if query.head.end is not None:
            return query.head
        number = replica.computed * self._program.partitions + query.partition
        return replace(query.head, sequence=number)


class WritesWhatIsNotItsOwn(Replicas):
    """Goes on in a partition that another replica has had meanwhile, from where it was itself."""

    def assign(self, replica: Replica, partition: int) -> None:
        if partition not in replica.offsets:
            super().assign(replica, partition)
            return
        at = replica.offsets[partition]
        passed = [head for head in self.queries[partition][:at] if head.end is None]
        last = max((head.sequence for head in passed), default=partition - self._program.partitions)
        replica.orders[partition] = PartitionOrder(
            partition, self._program.partitions, (0, last + self._program.partitions), 1
        )


class ReadsTheFirstOfTheLast(Replicas):
    """Takes a zombie's late record for the end of its partition, and jumps over what it lacks."""

    def begin(self, partition: int, order: PartitionOrder) -> int:
        return len(self.answers[partition]) and super().begin(partition, order) + 2

    def read(self, replica: Replica, partition: int) -> None:
        order = replica.orders.get(partition)
        if order is not None:
            order._begun = True
        super().read(replica, partition)


BUGS = (
    TrustsTheCommittedOffset,
    MisreadsTheTail,
    NumbersItsAnswers,
    WritesWhatIsNotItsOwn,
    ReadsTheFirstOfTheLast,
)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_caught(bug: type[Replicas]) -> None:
    run = settings(
        max_examples=400, deadline=None, database=None, derandomize=True,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
    )(given(programs_of(40))(lambda program: check_replicas(program, bug)))  # fmt: skip
    with pytest.raises((AssertionError, TutelageError)):
        run()
