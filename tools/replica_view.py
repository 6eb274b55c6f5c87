"""What `watch` shows of the replicas that answer queries, as plain values.

Knows neither Kafka nor metrics ports, and draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(kw_only=True, slots=True)
class ReplicaView:
    """A member of the group that answers.

    Args:
        client: Its client id.
        host: Its host, as the brokers see it.
        partitions: The partitions of the queries that it owns.
        rate: Queries of these partitions that were answered a second.
    """

    client: str
    host: str
    partitions: list[int]
    rate: float

    @property
    def name(self) -> str:
        """Who it is, in words."""
        return f"{self.client} on {self.host}" if self.host else self.client


@dataclass(kw_only=True, slots=True)
class QueriesView:
    """The queries of one partition.

    Args:
        answered: The offset up to which they are answered, by what the group committed.
        end: The offset after the last query.
        rate: Queries that were answered a second.
        oldest_s: Seconds since the first one without an answer was written; None without one.
        owner: The client id of the replica that owns the partition; None if no replica does.
    """

    answered: int
    end: int
    rate: float
    oldest_s: float | None = None
    owner: str | None = None

    @property
    def waiting(self) -> int:
        """The query records without an answer, ends of passes included."""
        return max(0, self.end - self.answered)


@dataclass(kw_only=True, slots=True)
class ReplicaMetricsView:
    """What a replica's metrics port says about the last seconds.

    Args:
        address: The port.
        queries_rate: Queries that it answered a second; None before the second look.
        rows_rate: Rows that it answered a second.
        tokens_rate: Elements of the longest ragged key that its model got a second, such as tokens.
        partitions: The partitions that it owns.
        rebalances: How often partitions came or went since it started.
        discarded: Answers that it did not write, because another replica had their partition.
    """

    address: str
    queries_rate: float | None = None
    rows_rate: float | None = None
    tokens_rate: float | None = None
    partitions: int = 0
    rebalances: int = 0
    discarded: int = 0


@dataclass(kw_only=True, slots=True)
class ReplicasView:
    """The replicas of one teacher.

    Args:
        topic: The topic of answers.
        queries: The topic of queries.
        group: Their group.
        replicas: The members of the group; None if the brokers did not say who they are.
        partitions: The queries of each partition; empty if the topic does not exist, or could not
            be looked at.
    """

    topic: str
    queries: str
    group: str
    replicas: list[ReplicaView] | None = None
    partitions: list[QueriesView] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        """The query records without an answer."""
        return sum(part.waiting for part in self.partitions)

    @property
    def oldest_s(self) -> float | None:
        """Seconds since the oldest query without an answer was written; None without one."""
        return max(
            (part.oldest_s for part in self.partitions if part.oldest_s is not None), default=None
        )

    @property
    def furthest(self) -> int | None:
        """The partition in which most queries wait; None if none does."""
        waiting = [part.waiting for part in self.partitions]
        return waiting.index(max(waiting)) if any(waiting) else None
