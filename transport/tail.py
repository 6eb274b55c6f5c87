"""Reads the last records of a run in a topic: where a teacher goes on, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from confluent_kafka import Message

from tutelage.schemas.codec import Codec
from tutelage.schemas.errors import RunMismatch
from tutelage.schemas.framing import unframe
from tutelage.schemas.headers import check_description, stream_from_headers
from tutelage.schemas.knowledge_schema import description_from_schema
from tutelage.schemas.limits import DEFAULT_LIMITS, Limits
from tutelage.schemas.record import Description, RecordHead, Stream
from tutelage.schemas.tail import Tail, tail_from_heads
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.runs import (
    FIRST_WINDOW,
    GROWTH,
    FoundRun,
    TopicRuns,
    is_of_run,
    newest_of,
    unlike,
)
from tutelage.transport.topic_admin import KafkaTopic


@dataclass(frozen=True, kw_only=True, slots=True)
class TopicTail:
    """The tail of a run in a topic.

    Attributes:
        tail: What the run's last records say.
        missing: Per partition, pass and sequence of the run's first missing record.
        begins: Per partition of the run, an offset at or before its first record.
        ends: Per partition of the topic, where it ended.
    """

    tail: Tail
    missing: list[tuple[int, int]]
    begins: list[int]
    ends: list[int]


class HeadReader:
    """Decodes the heads of messages.

    Args:
        connection: How to reach the registry.
        topic: The topic, for errors.
        limits: How large records, schemas and shapes may be.
    """

    def __init__(
        self, connection: KafkaConnection, topic: str, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self._registry = connection.registry
        self._topic = topic
        self._limits = limits
        self._codecs: dict[int, Codec] = {}

    @property
    def description(self) -> Description | None:
        """What the first message's record holds; None if none was read."""
        return next((codec.description for codec in self._codecs.values()), None)

    def read(self, message: Message) -> RecordHead:
        """Decode the head of a message's record, and verify the record.

        Raises:
            DataError, SchemaError: The message is damaged, or its schema is not the one that its
                headers name.
        """
        where = f"topic {self._topic}, partition {message.partition()}, offset {message.offset()}"
        schema_id, body = unframe(message.value(), where)
        if schema_id not in self._codecs:
            description = description_from_schema(
                self._registry.schema(schema_id), f"schema {schema_id}", self._limits
            )
            check_description(message.headers() or (), description, where)
            self._codecs[schema_id] = Codec(description, limits=self._limits)
        return self._codecs[schema_id].decode(body, where).head


def read_tail(
    connection: KafkaConnection,
    topic: str,
    partitions: int,
    *,
    run: FoundRun | None = None,
    ends: Sequence[int] | None = None,
    owned: Callable[[int], Collection[int]] | None = None,
) -> TopicTail | None:
    """Read the tail of a run, or of some of its partitions.

    Args:
        connection: How to reach the cluster and the registry.
        topic: The topic.
        partitions: How many partitions the topic has.
        run: The run; None for the newest.
        ends: Per partition, the offset before which to read; None for its end.
        owned: The number of the run's partitions -> those that the tail is of; all if None.

    Returns:
        The tail; None if the topic holds no record of the run.

    Raises:
        RunMismatch: The run names more partitions than the topic has.
    """
    admin = KafkaTopic(connection, topic)
    runs = TopicRuns(connection, topic, admin=admin)
    lows, highs = admin.first_offsets(partitions), list(ends or admin.end_offsets(partitions))
    last = runs.last_messages(
        {part: (low, high) for part, (low, high) in enumerate(zip(lows, highs, strict=True))}
    )
    messages = [message for found in last.values() for message in found]
    found_run = run or newest_of(messages)
    if found_run is None:
        if messages:
            stream_from_headers(
                messages[0].headers() or (), f"topic {topic}, partition {messages[0].partition()}"
            )
        return None
    stream = found_run.stream
    if stream.partitions > partitions:
        raise RunMismatch(unlike(topic, partitions, stream))
    starts = runs.starts(found_run, partitions)
    reader = HeadReader(connection, topic)
    heads: list[list[RecordHead]] = []
    for partition in range(stream.partitions):
        low = max(starts[partition], lows[partition])
        of_run = messages_of_run(runs, stream, partition, last[partition], (low, highs[partition]))
        heads.append([reader.read(message) for message in of_run])
    if (description := reader.description) is None:
        return None
    mine = None if owned is None else owned(stream.partitions)
    tail, missing = tail_from_heads(stream, description, heads, mine)
    # From the topic's own times, not this machine's clock: later records must have a later time.
    newest_s = max((message.timestamp()[1] / 1000 for message in messages), default=0.0)
    return TopicTail(
        tail=replace(tail, newest_s=max(newest_s, stream.created)),
        missing=missing,
        begins=starts,
        ends=highs,
    )


def messages_of_run(
    runs: TopicRuns,
    stream: Stream,
    partition: int,
    last: list[Message],
    offsets: tuple[int, int],
) -> list[Message]:
    """Return a run's last messages in a partition.

    Args:
        runs: Reads the topic.
        stream: The run.
        partition: The partition.
        last: Its last messages, of any run. The run's are among them, or in front of them.
        offsets: An offset at or before the run's first record, and the partition's end.
    """

    def last_of_run(messages: Sequence[Message]) -> list[Message]:
        return [message for message in messages if is_of_run(message, stream)][-FIRST_WINDOW:]

    (low, high), found, window = offsets, last, FIRST_WINDOW
    while (
        not (of_run := [message for message in found if is_of_run(message, stream)])
        and high - window > low
    ):
        # A writer of an older run has written behind this run's records.
        window *= GROWTH
        # The others may be large: none of them is kept.
        found = runs.messages({partition: (max(low, high - window), high)}, last_of_run)[partition]
    return of_run
