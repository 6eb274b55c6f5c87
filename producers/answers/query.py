"""Query records of one partition, in sequence order: which are to be answered.

No I/O, threads or clocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tutelage.schemas.errors import SequenceGap
from tutelage.schemas.record import Column, RecordHead
from tutelage.schemas.tail import is_missing


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Query:
    """One query record.

    Args:
        partition: Its partition, which is that of its answer, too.
        offset: Its offset.
        head: Its head. An end record asks for nothing; its answer is the end of the answers.
        columns: Key -> its rows; empty in an end record.
        nbytes: The bytes that it takes in memory.
        order: The order that accepted it. Another one after the partition was another replica's.
    """

    partition: int
    offset: int
    head: RecordHead
    columns: Mapping[str, Column] = field(repr=False)
    nbytes: int
    order: PartitionOrder = field(repr=False)

    def __str__(self) -> str:
        return (
            f"query {self.head.sequence} of pass {self.head.pass_index} (partition {self.partition}, "
            f"offset {self.offset})"
        )

    @property
    def is_first_of_run(self) -> bool:
        """Whether it is the run's first query."""
        return self.head.pass_index == self.head.sequence == 0 and self.head.end is None


class PartitionOrder:
    """The order of one partition's queries, from the first that has no answer.

    Guarantee: each query is accepted once, in order; a missing one is an error.

    Args:
        partition: The partition.
        partitions: P, the partitions of the run.
        missing: The pass and sequence of the first answer that the partition of answers lacks.
        passes: The passes of the run.
    """

    def __init__(
        self, partition: int, partitions: int, missing: tuple[int, int], passes: int
    ) -> None:
        self._partition = partition
        self._partitions = partitions
        self._passes = passes
        self._missing = missing
        self._begun = False

    @property
    def ended(self) -> bool:
        """Whether every pass has ended."""
        return self._missing[0] >= self._passes

    @property
    def awaits_first(self) -> bool:
        """Whether the next query is the partition's first."""
        return self._missing == (0, self._partition)

    @property
    def passed(self) -> int:
        """The least number of records that lie before the next query in its partition; exact in a
        run of one pass."""
        pass_index, sequence = self._missing
        return pass_index + (sequence - self._partition) // self._partitions

    def is_too_late(self, head: RecordHead) -> bool:
        """Whether reading began behind the next query: it was the first record that was read.

        True at most once; reading must then begin at the run's first record.
        """
        begun, self._begun = self._begun, True
        return not begun and not self.ended and self._is_behind(head)

    def _is_behind(self, head: RecordHead) -> bool:
        """Whether a record lies behind the next query, which was not read."""
        pass_index, sequence = self._missing
        if head.end is not None and head.pass_index == pass_index:
            return head.end.records > sequence
        return (head.pass_index, head.sequence) > self._missing

    def accept(self, head: RecordHead, where: str) -> bool:
        """Return whether a query is the next one. If it is not, it was seen before.

        Raises:
            SequenceGap: A query before it is missing.
        """
        pass_index, sequence = self._missing
        if self.ended or not is_missing(head, self._missing):
            return False
        if self._is_behind(head):
            what = (
                f"query {head.sequence} of pass {head.pass_index} follows"
                if head.end is None
                else f"pass {head.pass_index} ends with {head.end.records} queries"
            )
            raise SequenceGap(
                f"{where}: {what}, but query {sequence} of pass {pass_index} is the next; the topic "
                "of queries has lost records"
            )
        if head.end is None:
            self._missing = pass_index, sequence + self._partitions
        else:
            self._missing = pass_index + 1, self._partition
        return True
