"""The runs that lie in a topic, one behind the other: found by the last records of its partitions and by the times of records.

A run's `created` is later than the time of every record that lay in the topic before it, because its teacher makes it so
(`KafkaSink`). The first record from that time on is then the run's first in each partition, whatever the clocks of machines say.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from confluent_kafka.admin import OffsetSpec

from tutelage.schemas.errors import TopicIdentityError, TransportError
from tutelage.schemas.headers import run_from_headers, stream_from_headers
from tutelage.schemas.limits import DEFAULT_LIMITS, Limits
from tutelage.schemas.record import Stream
from tutelage.transport.connection import BROKER_TIMEOUT_S, KafkaConnection
from tutelage.transport.topic_admin import KafkaTopic
from tutelage.transport.waiting import Wait

log = logging.getLogger(__name__)

# The last record is nearly always the last offset, and each may have megabytes.
FIRST_LOOK = 4
FURTHER = 8
# What a writer of an older run may have sent after a newer one began, until it notices.
_LOOK_BYTES = 16 << 20
_MOST_MESSAGES = 1024
# Looked at before an offset: more than one, because control records of transactions take offsets too. And how far to step back.
_BEFORE = 2
_BACK = 16
# The last because the client asks for a group's coordinator, needed or not.
_PASSING = (
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
)

Keep = Callable[[Sequence[Message]], list[Message]]


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundRun:
    """A run, and a message that belongs to it."""

    stream: Stream
    message: Message


class TopicRuns:
    """Looks for runs in one topic. Opens a consumer for each look, and closes it."""

    def __init__(
        self, connection: KafkaConnection, topic: str, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self._connection = connection
        self._topic = topic
        self._limits = limits
        self._asked = KafkaTopic(connection, topic)

    def newest(self) -> FoundRun | None:
        """The run that began last, by the last records of partition 0; None if there are no records.

        Partition 0 holds the first record of every run.
        """
        low, high = self._asked.first_offsets(1)[0], self._asked.end_offsets(1)[0]
        messages = self.last_messages({0: (low, high)})[0]
        largest = max((len(message.value() or b"") for message in messages), default=0)
        look = min(_MOST_MESSAGES, _LOOK_BYTES // max(1, largest))
        if messages and len(messages) < min(look, high - low):
            # One of them is kept: the others may be far larger than the last ones are.
            messages = self.messages({0: (max(low, high - look), high)}, _newest_alone)[0]
        return newest_of(messages, self._limits)

    def all(self) -> Iterator[FoundRun]:
        """The runs whose first records are still there, and the one before them that lost its beginning; the newest first.

        A run whose headers name more partitions than the topic has cannot lie in it, and is left out with a warning.
        """
        low, high = self._asked.first_offsets(1)[0], self._asked.end_offsets(1)[0]
        partitions = self._asked.partitions()
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
            # Where the time of records says nothing, it goes on by offsets.
            high = min(self.starts(found, partitions)[0] if possible else high, high - 1)

    def named(self, run_id: str, wait: Wait | None = None) -> FoundRun | None:
        """The run of that name; None if it is not there, or not yet. A topic may hold any number of runs: `wait` ends the search."""
        for found in self.all():
            if found.stream.run_id == run_id:
                return found
            if wait is not None:
                wait.tick()
        return None

    def starts(self, run: FoundRun, partitions: int) -> list[int]:
        """Per partition of a run, an offset at or before its first record, and behind what older runs held when it began.

        Found by the time of records; where a record of the run lies before that, the clock it was written by says nothing, and the
        offset is looked for further back.

        Args:
            run: A run of the topic.
            partitions: How many partitions the topic has. Each partition is asked for, and headers may name any number of them.

        Raises:
            TopicIdentityError: The run names more partitions than the topic has.
        """
        stream = run.stream
        if stream.partitions > partitions:
            raise TopicIdentityError(unlike(self._topic, partitions, stream))
        lows, ends = (
            self._asked.first_offsets(stream.partitions),
            self._asked.end_offsets(stream.partitions),
        )
        found = self._asked.offsets(
            stream.partitions, OffsetSpec.for_timestamp(max(0, round(stream.created * 1000)))
        )
        # Without a record from that time on, the run seems to have none in the partition yet.
        starts = [end if offset < 0 else offset for offset, end in zip(found, ends, strict=True)]
        step, unsure = _BACK, set(range(stream.partitions))
        while unsure := {partition for partition in unsure if starts[partition] > lows[partition]}:
            before = self.messages(
                {part: (max(lows[part], starts[part] - _BEFORE), starts[part]) for part in unsure},
                lambda messages: [message for message in messages if is_of_run(message, stream)][
                    :1
                ],
            )
            unsure = {partition for partition in unsure if before[partition]}
            for partition in unsure:
                starts[partition] = max(lows[partition], starts[partition] - step)
            step *= FURTHER
        return starts

    def last_messages(
        self, ranges: Mapping[int, tuple[int, int]], look: int = FIRST_LOOK
    ) -> dict[int, list[Message]]:
        """The last few messages of each partition within its range of offsets, past control records of transactions.

        Args:
            ranges: Partition -> the first offset, and the one behind the last.
            look: How many offsets are looked at first.
        """
        wanted = dict(ranges)
        found: dict[int, list[Message]] = {partition: [] for partition in ranges}
        while wanted:
            read = {
                part: (max(low, high - look), high)
                for part, (low, high) in wanted.items()
                if high > low
            }
            found |= self.messages(read)
            wanted = {
                part: wanted[part]
                for part, (start, _) in read.items()
                if not found[part] and start > wanted[part][0]
            }
            look *= FURTHER
        return found

    def messages(
        self, ranges: Mapping[int, tuple[int, int]], keep: Keep | None = None
    ) -> dict[int, list[Message]]:
        """All messages of each partition within its range of offsets; with `keep` what it leaves of those that came so far."""
        if not ranges:
            return {}
        consumer = self._connection.consumer(partitions=len(ranges))
        try:
            return _read(consumer, self._topic, ranges, keep)
        finally:
            consumer.close()


def unlike(topic: str, partitions: int, stream: Stream) -> str:
    """That a stream names more partitions than its topic has, in words."""
    return f"topic {topic} has {partitions} partitions, {stream} was written to {stream.partitions}; was it recreated?"


def is_of_run(message: Message, stream: Stream) -> bool:
    """Whether a message belongs to a run, by its headers."""
    run = run_from_headers(message.headers() or ())
    return run is not None and run[0] == stream.run_id


def _newest_alone(messages: Sequence[Message]) -> list[Message]:
    """The message of the run that was created last; none if they belong to no run."""
    runs = [
        (run[1], message)
        for message in messages
        if (run := run_from_headers(message.headers() or ())) is not None
    ]
    return [max(runs, key=lambda each: each[0])[1]] if runs else []


def newest_of(messages: Sequence[Message], limits: Limits = DEFAULT_LIMITS) -> FoundRun | None:
    """The run that was created last, of those that messages belong to; None if they belong to none."""
    alone = _newest_alone(messages)
    if not alone:
        return None
    (message,) = alone
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
            if not error.retriable() and error.code() not in _PASSING:
                raise TransportError(
                    f"topic {topic}, partition {partition}, offset {offset}: {error.str()}"
                )
            continue
        assert partition is not None and offset is not None, "what was read has a place"
        stop = ranges[partition][1]
        if error is None and offset < stop:
            found[partition].append(message)
            if keep is not None:
                found[partition] = keep(found[partition])
        if error is not None or offset + 1 >= stop:
            unread.discard(partition)
    return found
