"""Which rows of a pass each rank of a training program gets: decided by arithmetic alone.

Pure: no I/O, threads or clocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tutelage.schemas.errors import ConfigurationError

# If the records of a stream repeat their pattern only after more than this many, every partition is
# taken as needed.
_LONGEST_PERIOD = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Deal:
    """Deals the rows of a pass to ranks, in units of a few rows: unit u goes to rank u mod W.

    Global batch g is the rows g*B to (g+1)*B of the pass, whatever the number of ranks W is. Each
    rank has B/W rows of it, except of the last batch of a pass, which may be shorter.

    Args:
        rank: This rank, from 0.
        ranks: How many there are: W.
        batch_size: Rows of a global batch: B.
        unit: Rows of a unit; W of them divide B.
    """

    rank: int
    ranks: int
    batch_size: int
    unit: int

    @classmethod
    def among(cls, rank: int, ranks: int, batch_size: int, rows_per_record: Sequence[int]) -> Deal:
        """Deal in units of whole records where that is possible: then no rank reads another's.

        Args:
            rank: This rank, from 0.
            ranks: How many there are.
            batch_size: Rows of a global batch.
            rows_per_record: Rows of a record, of each teacher.

        Raises:
            ConfigurationError: The ranks do not divide the global batch.
        """
        if batch_size % ranks:
            raise ConfigurationError(
                f"global_batch_size is {batch_size}, which {ranks} ranks cannot share; it must be "
                f"a multiple of {ranks}, such as {-(-batch_size // ranks) * ranks}"
            )
        share = batch_size // ranks
        wanted = [math.lcm(*rows_per_record), *sorted(set(rows_per_record), reverse=True)]
        unit = next((rows for rows in wanted if share % rows == 0), share)
        return cls(rank=rank, ranks=ranks, batch_size=batch_size, unit=unit)

    @property
    def share(self) -> int:
        """The rows that each rank has of a whole batch."""
        return self.batch_size // self.ranks

    def parts(self, start: int, stop: int) -> list[tuple[int, int]]:
        """This rank's rows among the pass's rows `start` to `stop`, as ranges in order."""
        found = []
        turn = self.unit * self.ranks
        first = start // turn * turn + self.rank * self.unit
        for begin in range(first, stop, turn):
            part = (max(start, begin), min(stop, begin + self.unit))
            if part[0] < part[1]:
                found.append(part)
        return found

    def count(self, rows: int) -> int:
        """How many of the first `rows` rows of the pass are this rank's."""
        turns, rest = divmod(rows, self.unit * self.ranks)
        return turns * self.unit + min(max(rest - self.rank * self.unit, 0), self.unit)

    def row(self, number: int) -> int:
        """The number in the pass of this rank's row `number`."""
        turn, place = divmod(number, self.unit)
        return (turn * self.ranks + self.rank) * self.unit + place

    def records(self, rows_per_record: int) -> tuple[list[int], int] | None:
        """The numbers of the records that hold rows of this rank, and after how many they repeat.

        Args:
            rows_per_record: Rows of a record.

        Returns:
            None if there are too many to list.
        """
        turn = self.unit * self.ranks
        period = math.lcm(turn, rows_per_record) // rows_per_record
        if period > _LONGEST_PERIOD:
            return None
        return [
            number
            for number in range(period)
            if self.parts(number * rows_per_record, (number + 1) * rows_per_record)
        ], period

    def amplification(self, rows_per_record: int, partitions: int, *, skips: bool) -> float:
        """How many times its share of a stream this rank reads; 1 is the least.

        Args:
            rows_per_record: Rows of a record.
            partitions: The stream's partitions.
            skips: Whether records that are not needed are skipped, and not only partitions.
        """
        if not skips:
            return self.ranks * len(self.partitions(rows_per_record, partitions)) / partitions
        records = self.records(rows_per_record)
        return self.ranks * (len(records[0]) / records[1] if records is not None else 1.0)

    def partitions(self, rows_per_record: int, partitions: int) -> frozenset[int]:
        """The partitions that hold rows of this rank.

        Args:
            rows_per_record: Rows of a record.
            partitions: The stream's partitions; record s is in partition s mod `partitions`.
        """
        records = self.records(rows_per_record)
        if records is None:
            return frozenset(range(partitions))
        numbers, period = records
        step = math.gcd(period, partitions)
        met = {number % step for number in numbers}
        return frozenset(each for each in range(partitions) if each % step in met)
