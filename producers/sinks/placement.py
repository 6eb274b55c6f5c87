"""Which partitions of a topic a record is written to, and where a run begins in each partition.

Knows nothing of Kafka: `MemorySink` uses the same rules. No I/O, threads or clocks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tutelage.producers.record_share import ALL_RECORDS, RecordShare
from tutelage.schemas.errors import SinkExists
from tutelage.schemas.record import RecordHead
from tutelage.schemas.tail import is_missing
from tutelage.schemas.topic import partition_for


class MissingRecords:
    """The first record of the run that each partition lacks.

    Args:
        first_missing: Per partition, the pass and sequence of that record.
        owned: The partitions that this writer writes; all if None.
    """

    def __init__(
        self, first_missing: Sequence[tuple[int, int]], owned: Collection[int] | None = None
    ) -> None:
        self._first_missing = list(first_missing)
        self._owned = range(len(first_missing)) if owned is None else owned

    @classmethod
    def of_new_run(cls, partitions: int, owned: Collection[int] | None = None) -> MissingRecords:
        """Return the state of a run of which nothing is written yet."""
        return cls([(0, partition) for partition in range(partitions)], owned)

    def partitions_without(self, head: RecordHead) -> list[int]:
        """Return the partitions of this writer that the record belongs in and that lack it.

        Record s belongs in partition s mod P; an end record belongs in every partition.
        """
        partitions = self._owned
        if head.end is None:
            partitions = [partition_for(head.sequence, len(self._first_missing))]
        return [
            partition
            for partition in partitions
            if partition in self._owned and is_missing(head, self._first_missing[partition])
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlacement:
    """Where a run lies in its topic.

    Attributes:
        missing: What the run's partitions lack.
        begins: Per partition of the run, an offset from which its records lie.
        topic_ends: Per partition of the topic, where it ended when the topic was inspected.
    """

    missing: MissingRecords
    begins: Sequence[int]
    topic_ends: Sequence[int]

    @classmethod
    def of_new_run(
        cls,
        topic: str,
        topic_ends: Sequence[int],
        partitions: int | None,
        share: RecordShare = ALL_RECORDS,
    ) -> RunPlacement:
        """Place a new run at the end of a topic.

        Args:
            topic: The topic's name, for the error.
            topic_ends: Per partition of the topic, where it ends.
            partitions: How many partitions the run has; all of the topic's if None.
            share: Which records of the run are written here.

        Raises:
            SinkExists: The topic has fewer partitions.
        """
        count = partitions or len(topic_ends)
        if count > len(topic_ends):
            raise SinkExists(
                f"topic {topic} has {len(topic_ends)} partitions, fewer than the {count} asked for"
            )
        return cls(
            missing=MissingRecords.of_new_run(count, share.owned(count)),
            begins=topic_ends[:count],
            topic_ends=topic_ends,
        )
