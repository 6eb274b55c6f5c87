"""Where a run begins in each partition of its topic: guessed by time, and checked by the first record that is found.

Pure: no I/O, threads or clocks.
"""

from __future__ import annotations

from collections.abc import Sequence

from tutelage.schemas.errors import RetentionLoss, TopicIdentityError
from tutelage.schemas.record import RecordHead
from tutelage.schemas.topic import BEGINNING

_FIRST_STEP = 16
_FURTHER = 8


class Beginnings:
    """The partitions of a run that are read from their first record.

    Guarantee: a partition is read from the run's first record there, or RetentionLoss is raised; a clock that was wrong costs a look
    further back, and never a record.

    Args:
        lows: Per partition, the first offset that the broker still has.
        guesses: Per partition, the offset at which reading begins; None where it goes on from a position.
    """

    def __init__(self, lows: Sequence[int], guesses: Sequence[int | None]) -> None:
        self._lows = list(lows)
        self._guesses = list(guesses)
        self._step = _FIRST_STEP

    def awaits(self, partition: int) -> bool:
        """Whether the run's first record in the partition was not found yet."""
        return self._guesses[partition] is not None

    def found(self, partition: int, head: RecordHead, where: str) -> int | None:
        """Take the first record of the run that came of a partition.

        Returns:
            None if it is the run's first there; else the offset from which to look again.

        Raises:
            RetentionLoss: It is not, and nothing before it is left.
        """
        guess, low = self._guesses[partition], self._lows[partition]
        assert guess is not None, "only called while a partition's first record is awaited"
        if (head.pass_index, head.sequence) <= (0, partition):
            self._guesses[partition] = None
            return None
        if guess <= low:
            raise RetentionLoss(
                f"{where}: the first record that is left of the run is {head}; the broker deleted what lay before offset {low}. Raise "
                "retention.ms, and let the teacher write a new run"
            )
        self._guesses[partition] = guess = max(low, guess - self._step)
        self._step *= _FURTHER
        return guess


def where_to_begin(
    topic: str,
    wanted: Sequence[int],
    *,
    lows: Sequence[int],
    highs: Sequence[int],
    begins: Sequence[int],
) -> tuple[list[int], list[int | None]]:
    """Per partition the offset to read from, and the guess that it is where it is one.

    Args:
        topic: For errors.
        wanted: The offsets of a position, BEGINNING where nothing was read yet.
        lows: The first offset that the broker still has.
        highs: Where the partition ends.
        begins: An offset at or before the run's first record.

    Raises:
        TopicIdentityError: A partition ends before the position.
        RetentionLoss: The broker deleted what the position says comes next.
    """
    offsets = list(wanted)
    guesses: list[int | None] = [None] * len(offsets)
    for partition, (offset, low, high) in enumerate(zip(wanted, lows, highs, strict=True)):
        if offset > high:
            raise TopicIdentityError(
                f"topic {topic}, partition {partition} ends at offset {high}, before the position {offset}; was it recreated?"
            )
        if BEGINNING < offset < low:
            raise RetentionLoss(
                f"topic {topic}, partition {partition}: the broker deleted offsets {offset} to {low - 1} before they were read; raise "
                "retention.ms, and let the teacher write a new run"
            )
        if offset == BEGINNING:
            guesses[partition] = offsets[partition] = max(low, begins[partition])
    return offsets, guesses
