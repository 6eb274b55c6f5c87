"""What `watch` shows at one moment: topics, partitions and a student's metrics, as plain values.

Knows neither Kafka nor metrics ports, and draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tutelage.tools.replica_view import ReplicaMetricsView, ReplicasView


@dataclass(kw_only=True, slots=True)
class PartitionView:
    """One partition.

    Args:
        first: The first offset that it still holds.
        read: The offset that the group committed; None if it committed none.
        end: The offset after the last record.
        rate: Records written per second.
    """

    first: int
    read: int | None
    end: int
    rate: float

    @property
    def behind(self) -> int | None:
        """The records that the group has not read; None if it committed no offset."""
        return None if self.read is None else max(0, self.end - self.read)


@dataclass(kw_only=True, slots=True)
class TopicView:
    """One topic. Only `topic` is set if the topic does not exist or is empty.

    Args:
        topic: Its name.
        teacher: The name of its teacher.
        passes: The passes of its run.
        rows_per_record: The rows of each record but a pass's last.
        partitions: The partitions that hold the run.
        quiet_s: Seconds since the last record was written.
        finished: Whether the run is complete.
    """

    topic: str
    teacher: str = ""
    passes: int = 0
    rows_per_record: int = 0
    partitions: list[PartitionView] = field(default_factory=list)
    quiet_s: float | None = None
    finished: bool = False

    @property
    def behind(self) -> int | None:
        """The records that the group has not read; None if it committed no offset."""
        known = [part.behind for part in self.partitions if part.behind is not None]
        return sum(known) if known else None

    @property
    def rate(self) -> float:
        """Records written per second."""
        return sum(part.rate for part in self.partitions)


@dataclass(kw_only=True, slots=True)
class StudentView:
    """What a student's metrics say about the last seconds.

    Args:
        starved: The share of its time in which it waits for batches; None if unknown.
        waits: Teacher -> the share of the time in which the student waits for this teacher.
        duplicates: Records that were dropped because they were written twice.
        zombies: Records of zombie writers that were dropped.
        checkpoint_s: Seconds since the last checkpoint.
        rows_rate: Rows delivered per second.
        policy_lag: How many updates behind the weights were that generated the last batch; None if
            the student does not train on-policy.
    """

    starved: float | None = None
    waits: dict[str, float] = field(default_factory=dict)
    duplicates: int = 0
    zombies: int = 0
    checkpoint_s: float | None = None
    rows_rate: float | None = None
    policy_lag: float | None = None


@dataclass(kw_only=True, slots=True)
class View:
    """All that `watch` shows at one moment.

    Args:
        topics: The topics, in the order in which they were named.
        student: What the student's metrics say; None without metrics.
        trouble: What could not be queried, as sentences.
        group: The group whose progress is shown.
        groups: The groups that read the topics, where several do and none was named.
        too_many_groups: The number of groups, where there are too many to query.
        replicas: The replicas that answer queries, of each topic that has a topic of queries.
        replica_metrics: What the metrics ports of replicas say.
    """

    topics: list[TopicView]
    student: StudentView | None
    trouble: list[str]
    group: str | None = None
    groups: list[str] = field(default_factory=list)
    too_many_groups: int = 0
    replicas: list[ReplicasView] = field(default_factory=list)
    replica_metrics: list[ReplicaMetricsView] = field(default_factory=list)
