"""The ends of a run's partitions, one by one: where a writer that owns some of them goes on.

`tail.py` reads the tail of a whole run, which one writer continues.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tutelage.schemas.limits import DEFAULT_LIMITS
from tutelage.schemas.record import Description, Stream
from tutelage.schemas.tail import next_record
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.run_messages import RunMessages
from tutelage.transport.runs import TopicRuns, newest_of
from tutelage.transport.tail import messages_of_run
from tutelage.transport.topic_admin import KafkaTopic

# Of each the last few records are in memory at once, which may be hidden states of megabytes.
_PARTITIONS_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class PartitionTails:
    """What some partitions hold of a run.

    Attributes:
        missing: Partition -> the pass and sequence of the run's first missing record in it.
        written: The run as its records say it, and what they hold; None if no partition that was
            looked at has a record of it.
    """

    missing: Mapping[int, tuple[int, int]]
    written: tuple[Stream, Description] | None


def read_partition_tails(
    connection: KafkaConnection, topic: str, stream: Stream, partitions: Iterable[int]
) -> PartitionTails:
    """Read the ends of some partitions of a run.

    Every writer of a partition writes consecutive records that begin with one that the partition
    lacked, or had. So the records in it are always the first ones of the run, and the highest of
    its last records says which is missing, whoever wrote it.

    Args:
        connection: How to reach the cluster and the registry.
        topic: The topic.
        stream: The run.
        partitions: The partitions.

    Raises:
        TransportError: The brokers or the registry did not answer.
        RunMismatch: The partitions hold records of this run by different writers.
    """
    wanted = list(partitions)
    admin = KafkaTopic(connection, topic)
    runs = TopicRuns(connection, topic, admin=admin)
    ends = admin.end_offsets(stream.partitions)
    starts = runs.starts_in(stream, admin.partitions(), wanted)
    ranges = {partition: (starts[partition], ends[partition]) for partition in wanted}
    missing = {partition: next_record([], partition, stream.partitions) for partition in wanted}
    decoder: RunMessages | None = None
    for at in range(0, len(wanted), _PARTITIONS_AT_ONCE):
        some = {partition: ranges[partition] for partition in wanted[at : at + _PARTITIONS_AT_ONCE]}
        for partition, last in runs.last_messages(some).items():
            messages = messages_of_run(runs, stream, partition, last, ranges[partition])
            if not messages:
                continue
            if decoder is None:
                first = newest_of(messages)
                assert first is not None, "messages of a run name it"
                decoder = RunMessages(connection, topic, first, DEFAULT_LIMITS)
            heads = [decoder.decode(message).record.head for message in messages]
            missing[partition] = next_record(heads, partition, stream.partitions)
    written = None if decoder is None else (decoder.stream, decoder.description)
    return PartitionTails(missing=missing, written=written)
