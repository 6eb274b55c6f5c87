"""Finds the runs in a topic, which follow one another, by the last records and by record times.

A run's `created` is later than the time of every earlier record in the topic: its teacher
(`KafkaSink`) makes sure of that. In each partition the first record from that time on is therefore
the run's first, whatever the machines' clocks say. Knows only headers, not what records hold.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from confluent_kafka.admin import OffsetSpec

from tutelage.schemas.errors import TopicIdentityError, TransportError
from tutelage.schemas.headers import run_from_headers, stream_from_headers
from tutelage.schemas.limits import DEFAULT_LIMITS, Limits
from tutelage.schemas.record import Stream
from tutelage.transport.connection import BROKER_TIMEOUT_S, KafkaConnection
from tutelage.transport.partition_reader import check_reported
from tutelage.transport.topic_admin import KafkaTopic
from tutelage.transport.waiting import Wait

log = logging.getLogger(__name__)

# How many offsets before the end are read first, and by how much that number grows. The last record
# is nearly always at the last offset, and each may have megabytes.
FIRST_WINDOW = 4
GROWTH = 8
# A writer of an older run may send this much after a newer run began, until it notices.
_WINDOW_BYTES = 16 << 20
_MOST_MESSAGES = 1024
# How many offsets are read before a start: more than one, because control records of transactions
# take offsets too. And how far the first step back goes.
_BEFORE = 2
_BACK = 16
# The last one, because the client looks for a group's coordinator even when it needs none.
_TRANSIENT = (
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
)

Keep = Callable[[Sequence[Message]], list[Message]]


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundRun:
    """A run and one of its messages."""

    stream: Stream
    message: Message


class TopicRuns:
    """Finds runs in one topic. Opens a consumer for each read, and closes it.

    Args:
        connection: How to reach the cluster.
        topic: The topic.
        limits: The most that a stream may ask for.
        admin: Asks about the topic; if not given, with a client of its own.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        topic: str,
        limits: Limits = DEFAULT_LIMITS,
        *,
        admin: KafkaTopic | None = None,
    ) -> None:
        self._connection = connection
        self._topic = topic
        self._limits = limits
        self._admin = admin or KafkaTopic(connection, topic)

    def newest(self) -> FoundRun | None:
        """Return the run that began last, by the last records of partition 0; None without records.

        Partition 0 holds the first record of every run.
        """
        low, high = self._admin.first_offsets(1)[0], self._admin.end_offsets(1)[0]
        messages = self.last_messages({0: (low, high)})[0]
        largest = max((len(message.value() or b"") for message in messages), default=0)
        window = min(_MOST_MESSAGES, _WINDOW_BYTES // max(1, largest))
        if messages and len(messages) < min(window, high - low):
            # Only one message is kept: earlier ones may be far larger than the last ones.
            messages = self.messages({0: (max(low, high - window), high)}, _newest_message)[0]
        return newest_of(messages, self._limits)

    def all(self) -> Iterator[FoundRun]:
        """Yield the runs that still have records, newest first.

        The oldest may have lost its beginning. A run whose headers name more partitions than the
        topic has cannot belong there: it is left out with a warning.
        """
        low, high = self._admin.first_offsets(1)[0], self._admin.end_offsets(1)[0]
        partitions = self._admin.partitions()
        seen: set[str] = set()
        while high > low:
            found = newest_of(self.last_messages({0: (low, high)})[0], self._limits)
            if found is None:
                return
            stream, possible = found.stream, found.stream.partitions <= partitions
            if stream.run_id not in seen:
                seen.add(stream.run_id)
                if possible:
                    yield found
                else:
                    log.warning(
                        "%s is left out: %s", stream, unlike(self._topic, partitions, stream)
                    )
            # If record times do not help, go back by offsets.
            high = min(self.starts(found, partitions)[0] if possible else high, high - 1)

    def named(self, run_id: str, wait: Wait | None = None) -> FoundRun | None:
        """Return the run with an id; None if the topic does not hold it (yet).

        A topic may hold any number of runs: `wait` limits the search.
        """
        for found in self.all():
            if found.stream.run_id == run_id:
                return found
            if wait is not None:
                wait.tick()
        return None

    def starts(self, run: FoundRun, partitions: int) -> list[int]:
        """Return, per partition of a run, an offset at or before its first record.

        Args:
            run: A run of the topic.
            partitions: How many partitions the topic has.

        Raises:
            TopicIdentityError: The run names more partitions than the topic has.
        """
        found = self.starts_in(
            run.stream, partitions, range(min(partitions, run.stream.partitions))
        )
        return [found[partition] for partition in sorted(found)]

    def starts_in(self, stream: Stream, partitions: int, wanted: Collection[int]) -> dict[int, int]:
        """Return, for some partitions of a run, an offset at or before its first record there.

        The offset lies behind the records that older runs had written when this one began. It is
        found by record times. If a record of the run lies before it, its writer's clock was wrong,
        and earlier offsets are searched.

        Args:
            stream: A run of the topic.
            partitions: How many partitions the topic has. Limits the requests: each partition is
                asked for, and headers may name any number.
            wanted: The partitions.

        Raises:
            TopicIdentityError: The run names more partitions than the topic has.
        """
        if stream.partitions > partitions:
            raise TopicIdentityError(unlike(self._topic, partitions, stream))
        lows, ends = (
            self._admin.first_offsets(stream.partitions),
            self._admin.end_offsets(stream.partitions),
        )
        found = self._admin.offsets(stream.partitions, starting_with(stream))
        # No record from that time on: the run seems to have none in this partition yet.
        starts = [end if offset < 0 else offset for offset, end in zip(found, ends, strict=True)]
        step, unsure = _BACK, set(wanted)
        while unsure := {partition for partition in unsure if starts[partition] > lows[partition]}:
            before = self.messages(
                {part: (max(lows[part], starts[part] - _BEFORE), starts[part]) for part in unsure},
                lambda messages: [message for message in messages if is_of_run(message, stream)][
                    :1
                ],
                sparing=True,
            )
            unsure = {partition for partition in unsure if before[partition]}
            for partition in unsure:
                starts[partition] = max(lows[partition], starts[partition] - step)
            step *= GROWTH
        return {partition: starts[partition] for partition in wanted}

    def last_messages(
        self, ranges: Mapping[int, tuple[int, int]], window: int = FIRST_WINDOW
    ) -> dict[int, list[Message]]:
        """Return the last few messages in each partition's range, skipping control records.

        Args:
            ranges: Partition -> its first offset and the offset after its last.
            window: How many offsets are read first.
        """
        wanted = dict(ranges)
        found: dict[int, list[Message]] = {partition: [] for partition in ranges}
        while wanted:
            read = {
                part: (max(low, high - window), high)
                for part, (low, high) in wanted.items()
                if high > low
            }
            found |= self.messages(read)
            wanted = {
                part: wanted[part]
                for part, (start, _) in read.items()
                if not found[part] and start > wanted[part][0]
            }
            window *= GROWTH
        return found

    def messages(
        self,
        ranges: Mapping[int, tuple[int, int]],
        keep: Keep | None = None,
        *,
        sparing: bool = False,
    ) -> dict[int, list[Message]]:
        """Return all messages in each partition's range of offsets.

        Args:
            ranges: Partition -> its first offset and the offset after its last.
            keep: Called with the messages of a partition that were read so far; only those that it
                returns are kept.
            sparing: Whether to fetch nothing behind the ranges. One batch comes at a time.
        """
        if not ranges:
            return {}
        consumer = self._connection.consumer(partitions=len(ranges), sparing=sparing)
        try:
            # With metadata the client fetches at once.
            self._admin.partitions(consumer)
            return _read(consumer, self._topic, ranges, keep)
        finally:
            consumer.close()


def starting_with(stream: Stream) -> OffsetSpec:
    """Selects a partition's first record from a run's creation on."""
    spec: OffsetSpec = OffsetSpec.for_timestamp(max(0, round(stream.created * 1000)))
    return spec


def unlike(topic: str, partitions: int, stream: Stream) -> str:
    """Return the message for a stream that names more partitions than its topic has."""
    return (
        f"topic {topic} has {partitions} partitions, {stream} was written to {stream.partitions}; "
        "was it recreated?"
    )


def is_of_run(message: Message, stream: Stream) -> bool:
    """Whether a message belongs to a run, by its headers."""
    run = run_from_headers(message.headers() or ())
    return run is not None and run[0] == stream.run_id


def _newest_message(messages: Sequence[Message]) -> list[Message]:
    """The one message of the run that was created last; empty if none belongs to a run."""
    runs = [
        (run[1], message)
        for message in messages
        if (run := run_from_headers(message.headers() or ())) is not None
    ]
    return [max(runs, key=lambda each: each[0])[1]] if runs else []


def newest_of(messages: Sequence[Message], limits: Limits = DEFAULT_LIMITS) -> FoundRun | None:
    """Return the run that was created last among those of the messages; None without one."""
    newest = _newest_message(messages)
    if not newest:
        return None
    (message,) = newest
    where = f"topic {message.topic()}, partition {message.partition()}, offset {message.offset()}"
    return FoundRun(
        stream=stream_from_headers(message.headers() or (), where, limits), message=message
    )


def _read(
    consumer: Consumer, topic: str, ranges: Mapping[int, tuple[int, int]], keep: Keep | None
) -> dict[int, list[Message]]:
    consumer.assign(
        [TopicPartition(topic, partition, start) for partition, (start, _) in ranges.items()]
    )
    wait = Wait(
        f"records of topic {topic}, of partitions {sorted(ranges)}",
        timeout_s=6 * BROKER_TIMEOUT_S,
        log=log,
    )
    found: dict[int, list[Message]] = {partition: [] for partition in ranges}
    unread = set(ranges)
    while unread:
        message = consumer.poll(0.2)
        wait.tick()
        if message is None:
            continue
        error, partition, offset = message.error(), message.partition(), message.offset()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            if error.code() == KafkaError._BAD_COMPRESSION:
                check_reported(message, topic)
            if not error.retriable() and error.code() not in _TRANSIENT:
                raise TransportError(
                    f"topic {topic}, partition {partition}, offset {offset}: {error.str()}"
                )
            continue
        assert partition is not None and offset is not None, "a message that was read has an offset"
        stop = ranges[partition][1]
        if error is None and offset < stop:
            found[partition].append(message)
            if keep is not None:
                found[partition] = keep(found[partition])
        if error is not None or offset + 1 >= stop:
            unread.discard(partition)
            # Nothing behind the range is fetched while other partitions are read.
            consumer.pause([TopicPartition(topic, partition)])
    return found
