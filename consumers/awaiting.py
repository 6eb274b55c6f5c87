"""The wait for the record that must come next: only that record ends it, or keeps it from ending in WaitTimeout."""

from __future__ import annotations

import logging
import time

from tutelage.consumers.order import Order
from tutelage.consumers.source import Source
from tutelage.schemas.waiting import Wait

# Arrivals come by the hundred thousand a second; how far a partition was read is looked at less often.
_LOOK_EVERY_S = 0.1
# A shorter wait than this ends only when nothing comes: what is there is read, however short the wait.
_SHORTEST_S = 1.0


class Awaiting:
    """Times the wait for an order's next record, however much else arrives.

    Duplicates and other partitions' records do not prolong it. Reading what lay in the partitions when the wait began does: the record
    may be behind that. It has an end, even where somebody writes faster than this reads.
    """

    def __init__(self, source: Source, order: Order, *, timeout_s: float, log: logging.Logger, hint: str) -> None:
        self._source = source
        self._order = order
        self._timeout_s = timeout_s
        self._log = log
        self._hint = hint
        self._awaits = False
        self._look_at = 0.0
        self._what: tuple[int, str] = (-1, "")
        self._wait: Wait | None = None
        # Where each partition ended when the wait began, and how much was read of all of them up to there.
        self._ends: list[int] = []
        self._read = 0

    def came(self) -> None:
        """The awaited record is there."""
        self._awaits = False

    def tick(self, *, quiet: bool) -> None:
        """Called for every arrival that is not the awaited record, and when nothing came for a moment (`quiet`).

        WaitTimeout, naming the record, if it does not come in time.
        """
        now = time.monotonic()
        if not self._awaits:
            self._awaits, self._wait, self._look_at = True, None, now + _LOOK_EVERY_S
        if now < self._look_at and not quiet:
            return
        self._look_at = now + _LOOK_EVERY_S
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
        """How much was read of what lay there when the wait began."""
        places = self._source.reached()
        # Of a partition that was not fetched yet the end becomes known later.
        known = self._ends or [0] * len(places)
        self._ends = [end or now for end, (_, now) in zip(known, places, strict=False)]
        return sum(min(at, end) for (at, _), end in zip(places, self._ends, strict=False))

    def _new_wait(self) -> Wait:
        partition, what = self._what
        return Wait(
            f"{self._source.name}, partition {partition}, {what}", timeout_s=self._timeout_s, log=self._log, hint=self._hint
        )
