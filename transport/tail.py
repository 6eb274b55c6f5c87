"""What a topic holds of its newest run: read backwards, past control records and what a writer of an older run left there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from confluent_kafka import Message

from tutelage.schemas.codec import Codec
from tutelage.schemas.errors import RunMismatch
from tutelage.schemas.framing import unframe
from tutelage.schemas.headers import check_description, stream_from_headers
from tutelage.schemas.knowledge_schema import description_from_schema
from tutelage.schemas.record import RecordHead
from tutelage.schemas.tail import Tail, tail_from_heads
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.runs import (
    FIRST_LOOK,
    FURTHER,
    FoundRun,
    TopicRuns,
    is_of_run,
    newest_of,
    unlike,
)
from tutelage.transport.topic_admin import KafkaTopic

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TopicTail:
    """The tail of a topic's newest run.

    `missing` is per partition the pass and sequence of the first record of it that is missing; `begins` an offset from which its records
    lie, and `ends` where the partition ended, of all partitions of the topic.
    """

    tail: Tail
    missing: list[tuple[int, int]]
    begins: list[int]
    ends: list[int]


def read_tail(
    connection: KafkaConnection,
    topic: str,
    partitions: int,
    *,
    run: FoundRun | None = None,
    ends: Sequence[int] | None = None,
) -> TopicTail | None:
    """The tail of the newest run a topic holds, or of `run`, before the offsets `ends`; None if the topic holds nothing."""
    asked, runs = KafkaTopic(connection, topic), TopicRuns(connection, topic)
    lows, highs = asked.first_offsets(partitions), list(ends or asked.end_offsets(partitions))
    looked = runs.last_messages(
        {part: (low, high) for part, (low, high) in enumerate(zip(lows, highs, strict=True))}
    )
    messages = [message for found in looked.values() for message in found]
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
    codecs: dict[int, Codec] = {}
    heads: list[list[RecordHead]] = []
    for partition in range(stream.partitions):
        found = looked[partition]
        low, high, look = max(starts[partition], lows[partition]), highs[partition], FIRST_LOOK
        while (
            not (of_run := [message for message in found if is_of_run(message, stream)])
            and high - look > low
        ):
            # A writer of an older run has written behind this one's records.
            look *= FURTHER
            found = runs.messages({partition: (max(low, high - look), high)})[partition]
        heads.append([_head(connection, codecs, message, topic) for message in of_run])
    description = next(iter(codecs.values())).description if codecs else None
    if description is None:
        return None
    tail, missing = tail_from_heads(stream, description, heads)
    # By the topic's own times, not by this machine's clock: what comes behind must have a later one.
    newest_s = max((message.timestamp()[1] / 1000 for message in messages), default=0.0)
    return TopicTail(
        tail=replace(tail, newest_s=max(newest_s, stream.created)),
        missing=missing,
        begins=starts,
        ends=highs,
    )


def _head(
    connection: KafkaConnection, codecs: dict[int, Codec], message: Message, topic: str
) -> RecordHead:
    where = f"topic {topic}, partition {message.partition()}, offset {message.offset()}"
    schema_id, body = unframe(message.value(), where)
    if schema_id not in codecs:
        description = description_from_schema(
            connection.registry.schema(schema_id), f"schema {schema_id}"
        )
        check_description(message.headers() or (), description, where)
        codecs[schema_id] = Codec(description)
    return codecs[schema_id].decode(body, where).head
