"""Offsets at which reading a run begins: estimated by time and by counting records, then checked.

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
    """Searches each partition whose offset is not known for the first record that is needed.

    Guarantee: reading begins at or before that record, or RetentionLoss is raised. A wrong clock
    costs a step further back, never a record.

    Args:
        lows: Per partition, the first offset that the broker still has.
        guesses: Per partition, the offset at which reading begins; None if it continues from a
            known offset.
        needed: Per partition, the pass and number of the first record that is needed; the run's
            first record if not given.
    """

    def __init__(
        self,
        lows: Sequence[int],
        guesses: Sequence[int | None],
        needed: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self._lows = list(lows)
        self._guesses = list(guesses)
        self._needed = needed or [(0, partition) for partition in range(len(lows))]
        self._step = _FIRST_STEP

    def awaits(self, partition: int) -> bool:
        """Whether no record of the run has been found in the partition yet."""
        return self._guesses[partition] is not None

    def found(self, partition: int, head: RecordHead, where: str) -> int | None:
        """Check the first record of the run that was read from a partition.

        Returns:
            None if what is needed does not lie before it; else the offset from which to read again.

        Raises:
            RetentionLoss: It lies before it, and the broker has no earlier offset.
        """
        guess, low = self._guesses[partition], self._lows[partition]
        assert guess is not None, "only called while a partition's first record is awaited"
        if (head.pass_index, head.sequence) <= self._needed[partition]:
            self._guesses[partition] = None
            return None
        if guess <= low:
            raise RetentionLoss(
                f"{where}: the first record that is left of the run is {head}; the broker deleted "
                "offsets "
                f"before {low}. Raise retention.ms, and have the teacher write a new run"
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
    """Return, per partition, the offset to read from, and the same as a guess if it is one.

    Args:
        topic: The topic, for errors.
        wanted: Per partition, the position's offset; BEGINNING where nothing was read yet.
        lows: Per partition, the first offset that the broker still has.
        highs: Per partition, its end.
        begins: Per partition, an offset at or before the run's first record.

    Raises:
        TopicIdentityError: A partition ends before the position.
        RetentionLoss: The broker deleted the offset at which the position continues.
    """
    offsets = list(wanted)
    guesses: list[int | None] = [None] * len(offsets)
    for partition, (offset, low, high) in enumerate(zip(wanted, lows, highs, strict=True)):
        if offset > high:
            raise TopicIdentityError(
                f"topic {topic}, partition {partition} ends at offset {high}, before the position "
                f"{offset}; was it recreated?"
            )
        if BEGINNING < offset < low:
            raise RetentionLoss(
                f"topic {topic}, partition {partition}: the broker deleted offsets {offset} to "
                f"{low - 1} before they were read; raise "
                "retention.ms, and have the teacher write a new run"
            )
        if offset == BEGINNING:
            guesses[partition] = offsets[partition] = max(low, min(high, begins[partition]))
    return offsets, guesses
