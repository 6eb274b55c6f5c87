"""Groups the queries of all partitions into calls of the model. No I/O, threads or clocks."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Set
from dataclasses import dataclass

from tutelage.producers.answers.query import Query
from tutelage.schemas.arguments import check_seconds, check_whole_number
from tutelage.schemas.record import Ragged


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How much one call of the model takes.

    Args:
        rows: Rows of one call, at most; a single query may have more.
        elements: Elements of the longest ragged key of one call, padding included, such as tokens;
            None for no limit.
        linger_s: How long a query waits for others while the model is free, in seconds.

    Raises:
        ConfigurationError: An argument has the wrong type or value.
    """

    rows: int = 64
    elements: int | None = None
    linger_s: float = 0.002

    def __post_init__(self) -> None:
        check_whole_number("max_rows", self.rows)
        if self.elements is not None:
            check_whole_number("max_tokens", self.elements)
        check_seconds("linger_s", self.linger_s, zero=True)


class QueryPool:
    """Queries that wait for the model, those that the student needs first in front.

    Guarantee: the queries of a partition leave in their order.

    Args:
        budget: How much one call takes.
        is_alone: Whether a query leaves alone.
    """

    def __init__(
        self, budget: Budget, is_alone: Callable[[Query], bool] = lambda query: False
    ) -> None:
        self._budget = budget
        self._is_alone = is_alone
        # In the order in which a student reads: the queries of a partition may come long before
        # earlier ones of another.
        self._waiting: list[tuple[Query, float]] = []
        self.rows = self.nbytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def first(self) -> Query | None:
        """The query that leaves first; None if none waits."""
        return self._waiting[0][0] if self._waiting else None

    def add(self, query: Query, now: float) -> None:
        """Add a query that came at this time, in seconds."""
        insort(self._waiting, (query, now), key=lambda each: _place(each[0]))
        self.rows += query.head.rows
        self.nbytes += query.nbytes

    def drop(self, partitions: Set[int]) -> None:
        """Drop the queries of these partitions."""
        self._waiting = [each for each in self._waiting if each[0].partition not in partitions]
        self.rows = sum(query.head.rows for query, _ in self._waiting)
        self.nbytes = sum(query.nbytes for query, _ in self._waiting)

    def oldest_s(self, now: float) -> float:
        """How long the oldest query has waited, in seconds; 0 without one. Safe in any thread."""
        return now - min((came for _, came in tuple(self._waiting)), default=now)

    def take(self, now: float) -> list[Query]:
        """Take the queries of the next call, or none if others may still join them.

        An end record is taken alone, and the queries of one call are of one pass.

        Args:
            now: The time, in seconds.
        """
        if not self._waiting:
            return []
        ready = self._fitting()
        full = len(ready) < len(self._waiting) or self.rows >= self._budget.rows
        if not full and self.oldest_s(now) < self._budget.linger_s:
            return []
        del self._waiting[: len(ready)]
        for query in ready:
            self.rows -= query.head.rows
            self.nbytes -= query.nbytes
        return ready

    def _fitting(self) -> list[Query]:
        """The first queries that fit one call; at least one."""
        found: list[Query] = []
        rows = longest = 0
        for query, _ in self._waiting:
            head = query.head
            together = max(longest, _longest(query)) * (rows + head.rows)
            limit = self._budget.elements
            if found and (
                head.end is not None
                or found[0].head.end is not None
                or self._is_alone(query)
                or self._is_alone(found[0])
                or head.pass_index != found[0].head.pass_index
                or rows + head.rows > self._budget.rows
                or (limit is not None and together > limit)
            ):
                break
            found.append(query)
            rows += head.rows
            longest = max(longest, _longest(query))
        return found


def _place(query: Query) -> tuple[int, bool, int, int]:
    """What queries are ordered by: their place in the run, ends last."""
    head = query.head
    return head.pass_index, head.end is not None, head.sequence, query.partition


def _longest(query: Query) -> int:
    """The length of the longest ragged row of a query."""
    return max(
        (
            int(column.lengths.max(initial=0))
            for column in query.columns.values()
            if isinstance(column, Ragged)
        ),
        default=0,
    )
