"""Bounds the records that are kept while one partition lacks the next record. Student and commands share it."""

from __future__ import annotations

from tutelage.consumers.sources.base import Source
from tutelage.consumers.stages.order import Order

#: The default budget of a student per teacher, and the budget of the commands.
BUDGET_BYTES = 64 << 20


class Holding:
    """Pauses the partitions that are not awaited while too many of their records wait.

    Guarantee: once the budget is reached, nothing more is fetched from these partitions. The records
    that wait take at most the budget and what the source had already fetched.
    """

    def __init__(self, source: Source, order: Order, budget_bytes: int = BUDGET_BYTES) -> None:
        self._source = source
        self._order = order
        self._budget_bytes = budget_bytes
        self._holds = False

    def look(self) -> None:
        """Pause or resume partitions. Called after each record."""
        if self._holds:
            self._holds = self._order.memory_bytes > self._budget_bytes // 2
            self._source.hold(self._order.others() if self._holds else frozenset())
        elif self._order.memory_bytes > self._budget_bytes:
            self._holds = True
            self._source.hold(self._order.others())
