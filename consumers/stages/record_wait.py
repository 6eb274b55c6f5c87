"""The wait for the next record of a stream, prolonged only by progress towards that record."""

from __future__ import annotations

import logging
import time

from tutelage.consumers.sources.base import Source
from tutelage.consumers.stages.order import Order
from tutelage.transport.waiting import Wait

# Records arrive up to 100,000 times a second; the read position is checked less often.
_CHECK_EVERY_S = 0.1
# A timeout below this applies only when nothing arrives, so that existing records are always read.
_SHORTEST_S = 1.0


class RecordWait:
    """Times the wait for the next record of an `Order`, whatever else arrives.

    Duplicates and records of other partitions do not prolong the wait. Reading the records that
    were in the partitions when the wait began does, because the next record may follow them. That
    amount is fixed, so the wait ends even if records are written faster than they are read.

    Args:
        source: The source of the records.
        order: Knows which record must come next.
        timeout_s: How long to wait, in seconds.
        log: Where warnings about a long wait go.
        hint: What to do about a timeout, for the message.
    """

    def __init__(
        self, source: Source, order: Order, *, timeout_s: float, log: logging.Logger, hint: str
    ) -> None:
        self._source = source
        self._order = order
        self._timeout_s = timeout_s
        self._log = log
        self._hint = hint
        self._waits = False
        self._next_check_s = 0.0
        self._what: tuple[int, str] = (-1, "")
        self._wait: Wait | None = None
        # The end of each partition when the wait began, and how much was read up to these ends.
        self._ends: list[int] = []
        self._read = 0

    def end(self) -> None:
        """Note that the next record has arrived."""
        self._waits = False

    def tick(self, *, quiet: bool) -> None:
        """Check the time. Called for every other record, and when nothing came for a moment.

        Args:
            quiet: Whether nothing came for a moment.

        Raises:
            WaitTimeout: The record did not come in time; the message names it.
        """
        now = time.monotonic()
        if not self._waits:
            self._waits, self._wait, self._next_check_s = True, None, now + _CHECK_EVERY_S
        if now < self._next_check_s and not quiet:
            return
        self._next_check_s = now + _CHECK_EVERY_S
        what = self._order.waiting_for
        if self._wait is None or what != self._what:
            self._what, self._ends = what, []
            self._read = self._read_now()
            self._wait = self._new_wait()
        elif (read := self._read_now()) > self._read:
            self._read = read
            self._wait = self._new_wait()
        if quiet or self._timeout_s >= _SHORTEST_S or self._wait.waited_s >= _SHORTEST_S:
            self._wait.tick()

    def _read_now(self) -> int:
        """How many of the records were read that were there when the wait began."""
        reached = self._source.reached()
        # The end of a partition that was not fetched yet becomes known later.
        known = self._ends or [0] * len(reached)
        self._ends = [end or now for end, (_, now) in zip(known, reached, strict=False)]
        return sum(min(at, end) for (at, _), end in zip(reached, self._ends, strict=False))

    def _new_wait(self) -> Wait:
        partition, what = self._what
        return Wait(
            f"{self._source.name}, partition {partition}, {what}",
            timeout_s=self._timeout_s,
            log=self._log,
            hint=self._hint,
        )
