"""How much of a stream is kept while one partition lacks the record that must come next: a budget, for everything that reads in order."""

from __future__ import annotations

from tutelage.consumers.order import Order
from tutelage.consumers.source import Source

#: What a student keeps of one teacher unless told otherwise, and what commands keep.
BUDGET_BYTES = 64 << 20


class Holding:
    """Fetches only the partitions that are awaited once the others have run too far ahead, until those have caught up.

    Guarantee: when the budget is reached, nothing more is fetched from partitions that are not awaited. What waits then is the budget,
    and what the source had fetched by that time.
    """

    def __init__(self, source: Source, order: Order, budget_bytes: int = BUDGET_BYTES) -> None:
        self._source = source
        self._order = order
        self._budget_bytes = budget_bytes
        self._holds = False

    def look(self) -> None:
        """Hold partitions, or let go of them; called after each arrival."""
        if self._holds:
            self._holds = self._order.memory_bytes > self._budget_bytes // 2
            self._source.hold(self._order.others() if self._holds else frozenset())
        elif self._order.memory_bytes > self._budget_bytes:
            self._holds = True
            self._source.hold(self._order.others())
