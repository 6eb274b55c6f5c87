"""Which records of a run one of several writers writes, and how it numbers them among its own.

Pure: no I/O, threads or clocks.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from tutelage.schemas.errors import ConfigurationError
from tutelage.schemas.record import End
from tutelage.schemas.tail import Tail


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordShare:
    """The records of one rank of W: record s is written by rank s mod W.

    W divides the number of partitions P, and record s is in partition s mod P. So rank r writes
    partitions p with p mod W = r, all of them, and no others.

    Args:
        rank: This writer, from 0.
        ranks: How many there are: W.
    """

    rank: int = 0
    ranks: int = 1

    def check_partitions(self, partitions: int, where: str) -> None:
        """Check that each partition can be one writer's.

        Args:
            partitions: How many partitions the run has.
            where: The sink, for the message.

        Raises:
            ConfigurationError: W does not divide them.
        """
        if partitions % self.ranks:
            raise ConfigurationError(
                f"{where} has {partitions} partitions, which {self.ranks} ranks cannot share: rank r "
                f"writes partitions r, r + {self.ranks} and so on, so their number must be a "
                f"multiple of {self.ranks}, such as {-(-partitions // self.ranks) * self.ranks}. "
                f"Take as many in a new run of a topic that has them, or a number of ranks that "
                f"divides {partitions}"
            )

    def owned(self, partitions: int) -> Collection[int]:
        """The partitions of this writer.

        Args:
            partitions: How many the run has.
        """
        return range(self.rank, partitions, self.ranks)

    def sequence(self, number: int) -> int:
        """The number in the run of this writer's record `number`."""
        return number * self.ranks + self.rank

    def count(self, sequence: int) -> int:
        """How many of the run's first `sequence` records are this writer's."""
        return max(0, sequence - self.rank + self.ranks - 1) // self.ranks

    def end_of_all(self, end: End) -> End:
        """The end of a pass, of which each writer has written as much as this one."""
        return End(records=end.records * self.ranks, rows=end.rows * self.ranks)

    def own_tail(self, tail: Tail) -> Tail:
        """The tail of this writer's partitions, in its own numbers.

        Args:
            tail: The same in the run's numbers.
        """
        if self.ranks == 1:
            return tail
        last = tail.last
        if last is not None:
            end, sequence = last.end, self.count(last.sequence)
            if end is not None:
                # Every record of such a run is full.
                rows = self.count(end.records) * tail.stream.rows_per_record
                end = End(records=self.count(end.records), rows=rows)
            last = replace(last, sequence=sequence, end=end)
        return replace(tail, sequence=self.count(tail.sequence), last=last)


#: The share of a run's only writer.
ALL_RECORDS = RecordShare()
