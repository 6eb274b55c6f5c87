"""A Kafka topic -> records, partition by partition in offset order, never skipping what the broker no longer has."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Generator, Mapping, Sequence
from copy import copy
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from tutelage.consumers.kafka_ends import Ends
from tutelage.consumers.kafka_group import Group
from tutelage.consumers.source import BEGINNING, Arrival, Opened, Position, Source
from tutelage.schemas.codec import Codec
from tutelage.schemas.errors import AccessDenied, RetentionLoss, RunMismatch, TopicIdentityError, TransportError
from tutelage.schemas.framing import unframe
from tutelage.schemas.kafka_connection import (
    BROKER_TIMEOUT_S,
    DEFAULT_BOOTSTRAP,
    DEFAULT_REGISTRY,
    DENIED,
    NEEDS_ACL,
    KafkaConnection,
    describe,
)
from tutelage.schemas.kafka_control import KafkaControl
from tutelage.schemas.kafka_topic import KafkaTopic
from tutelage.schemas.kafka_tracing import Tracing, tracing_of
from tutelage.schemas.knowledge_schema import description_of
from tutelage.schemas.limits import DEFAULT_LIMITS, Limits
from tutelage.schemas.record import Stream
from tutelage.schemas.registry import Registry
from tutelage.schemas.topic import HEADER_PREFIX, checked_topic, stream_of_headers, to_student_topic, to_teacher_topic
from tutelage.schemas.waiting import Wait

log = logging.getLogger(__name__)

# Copies of messages are made under the interpreter's lock, and are memory: so many bytes at once, but not more messages than this.
_BYTES_AT_ONCE = 4 << 20
_MESSAGES_AT_ONCE = 64
_IDENTITY_CHECK_S = 10.0
# Errors the client recovers from by itself; anything else ends the student.
_PASSING = frozenset(
    {
        KafkaError._PARTITION_EOF,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TIMED_OUT,
        KafkaError._RESOLVE,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        # The client asks for a coordinator, although no group is joined.
        KafkaError.GROUP_AUTHORIZATION_FAILED,
    }
)

# Clients a forked child inherited: they belong to the parent, and even freeing them could hang.
_INHERITED: list[Any] = []


class KafkaSource(Source):
    """Reads a topic that a `KafkaSink` writes, from its first record or from a position; waits for topic and records.

    `registry` is a URL or a Registry; `options` are librdkafka's, untouched. With a `group`, the student's progress is committed
    there for lag tools and a teacher's `max_ahead`; where it reads from never depends on it.

    Guarantee: records that are gone (retention, a recreated topic) raise RetentionLoss or TopicIdentityError; none is skipped.
    """

    # The client keeps as much again in its own queue.
    ahead_bytes = 32 << 20

    def __init__(
        self,
        topic: str,
        *,
        bootstrap_servers: str = DEFAULT_BOOTSTRAP,
        registry: Registry | str = DEFAULT_REGISTRY,
        options: Mapping[str, object] | None = None,
        group: str | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._topic = checked_topic(topic)
        client_id = f"tutelage-student-{topic}"
        self._connection = KafkaConnection(bootstrap_servers, registry=registry, options=options, client_id=client_id)
        self._group = Group(self._connection, group, topic) if group is not None else None
        self._limits = limits
        self._consumer: Consumer | None = None
        self._asked = KafkaTopic(self._connection, self._topic)
        self._opened: Opened | None = None
        self._first: Message | None = None
        self._low: list[int] = []
        self._codecs: dict[int, Codec] = {}
        self._headers: list[Any] = []
        self._tracing: Tracing | None = None
        self._identity: dict[str, str] = {}
        self._control: KafkaControl | None = None
        self._ends: Ends | None = None
        self._held: frozenset[int] = frozenset()
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"KafkaSource({self._topic!r}, {self._connection.bootstrap_servers!r})"

    def __getstate__(self) -> dict[str, object]:
        fresh: dict[str, object] = {
            "_consumer": None,
            "_asked": KafkaTopic(self._connection, self._topic),
            "_control": None,
            "_ends": None,
            "_tracing": None,
            "_opened": None,
            "_first": None,
            "_codecs": {},
        }
        return {**self.__dict__, **fresh}

    @property
    def name(self) -> str:
        return f"topic {self._topic}"

    @property
    def connection(self) -> KafkaConnection:
        """How it reaches Kafka."""
        return self._connection

    @property
    def online(self) -> bool:
        return True

    def identity(self) -> Mapping[str, str]:
        return dict(self._identity)

    def ends(self) -> Sequence[tuple[int, int]]:
        ends = self._ends
        return ends.latest() if ends is not None else ()

    def connect(self) -> None:
        self._connection.registry.connect()

    def open(self, timeout_s: float) -> Opened:
        self._leave_inherited()
        if self._opened is not None:
            return self._opened
        wait = Wait(
            f"topic {self._topic} at {self._connection.bootstrap_servers}",
            timeout_s=timeout_s,
            log=log,
            hint="is its teacher running, and is this the name it writes to?",
        )
        while not (partitions := self._asked.partitions()):
            # Not there, or not to be seen: then waiting would be in vain.
            self._asked.refuse_hidden()
            wait.tick()
            time.sleep(0.2)
        consumer = self._new_consumer(partitions)
        self._identity = self._asked.identity()
        message = self._first_message(consumer, partitions, timeout_s - wait.waited_s)
        where = f"topic {self._topic}, partition {message.partition()}, offset {message.offset()}"
        stream = stream_of_headers(message.headers() or (), where)
        # Behind those that say who wrote it, others may add some to each record: a trace's, for one.
        self._headers = [header for header in message.headers() or () if header[0].startswith(HEADER_PREFIX)]
        self._tracing = tracing_of(self._topic, self._connection.client_id)
        if stream.partitions > partitions:
            raise TopicIdentityError(
                f"{where}: {stream} has {stream.partitions} partitions, the topic {partitions}; was it recreated?"
            )
        if stream.partitions < partitions:
            # Partitions that were added to the topic later hold nothing of this run: reading begins anew, without them.
            self._first = None
        schema_id, _ = unframe(message.value(), where)
        schema = self._connection.registry.schema(schema_id)
        description = description_of(schema, f"schema {schema_id} of topic {self._topic}", self._limits)
        self._codecs[schema_id] = Codec(description, limits=self._limits)
        self._ends = Ends(self._connection, self._topic, stream.partitions)
        self._opened = Opened(stream=stream, description=description, schema=schema, partitions=stream.partitions)
        return self._opened

    def _new_consumer(self, partitions: int) -> Consumer:
        """A consumer in place of the one before: one that is assigned again while it fetches may stand still for three seconds."""
        if self._consumer is not None:
            self._consumer.close()
        self._consumer = consumer = self._connection.consumer(partitions=partitions)
        self._held = frozenset()
        # A client that has seen the topic's leaders begins to fetch at once; one that has not looks for them a second later.
        self._asked.partitions(consumer)
        return consumer

    def _first_message(self, consumer: Consumer, partitions: int, timeout_s: float) -> Message:
        wait = Wait(f"the first record of topic {self._topic}", timeout_s=timeout_s, log=log, hint="is its teacher running?")
        self._low = self._asked.first_offsets(partitions)
        consumer.assign([TopicPartition(self._topic, partition, offset) for partition, offset in enumerate(self._low)])
        while True:
            message = consumer.poll(0.1)
            if message is not None and message.error() is None:
                self._first = message
                return message
            if message is not None:
                self._refuse(message)
            wait.tick()

    def read(self, position: Position) -> Generator[Arrival | None, None, None]:
        self._leave_inherited()
        opened = self.open(BROKER_TIMEOUT_S) if self._opened is None else self._opened
        first, self._first = self._first, None
        if first is not None and all(offset == BEGINNING for offset in position.offsets):
            # Reading goes on behind the message that `open` looked at; nothing has to be asked for or fetched again.
            unchecked = {partition: low for partition, low in enumerate(self._low[: opened.partitions]) if low}
            messages = [first]
        else:
            unchecked = self._assign(self._new_consumer(opened.partitions), opened, position)
            messages = []
        consumer = self._consumer
        assert consumer is not None, "open makes the first consumer"
        checked_s = time.monotonic()
        size = _BYTES_AT_ONCE
        while True:
            came = False
            for message in messages:
                if message.error() is not None:
                    self._refuse(message)
                    continue
                came = True
                arrival = self._arrival(message, opened.stream)
                size = arrival.record.nbytes
                if arrival.partition in unchecked:
                    self._refuse_lost_beginning(arrival, unchecked.pop(arrival.partition))
                yield arrival
            if not came:
                if time.monotonic() - checked_s > _IDENTITY_CHECK_S:
                    self._refuse_other_topic()
                    checked_s = time.monotonic()
                yield None
            # What was yielded is the caller's alone now: a list that is kept while waiting keeps its messages in memory.
            messages = []
            messages = _taken(consumer, max(1, min(_MESSAGES_AT_ONCE, _BYTES_AT_ONCE // size)))

    def _assign(self, consumer: Consumer, opened: Opened, position: Position) -> dict[int, int]:
        """Begin at a position; returns the partitions read from their first record although earlier ones were deleted."""
        offsets = list(position.offsets) or [BEGINNING] * opened.partitions
        lost: dict[int, int] = {}
        lows, highs = self._asked.first_offsets(opened.partitions), self._asked.end_offsets(opened.partitions)
        for partition, (offset, low, high) in enumerate(zip(offsets, lows, highs, strict=True)):
            if offset > high:
                raise TopicIdentityError(
                    f"topic {self._topic}, partition {partition} ends at offset {high}, before the position {offset}; was it recreated?"
                )
            if BEGINNING < offset < low:
                raise RetentionLoss(
                    f"topic {self._topic}, partition {partition}: the broker deleted offsets {offset} to {low - 1} before they were "
                    "read; raise retention.ms, and start the teacher again on a new topic"
                )
            if offset == BEGINNING:
                offsets[partition] = low
                if low:
                    lost[partition] = low
        consumer.assign([TopicPartition(self._topic, partition, offset) for partition, offset in enumerate(offsets)])
        return lost

    def _refuse_lost_beginning(self, arrival: Arrival, low: int) -> None:
        head = arrival.record.head
        if (head.pass_index, head.sequence) > (0, arrival.partition):
            raise RetentionLoss(
                f"{arrival.where}: the first record that is left is {head}; the broker deleted what was before offset {low}. "
                "Raise retention.ms, and start the teacher again on a new topic"
            )

    def _arrival(self, message: Message, stream: Stream) -> Arrival:
        partition, offset = message.partition(), message.offset()
        assert partition is not None and offset is not None, "a message that was read has a place"
        where = f"topic {self._topic}, partition {partition}, offset {offset}"
        # A list, whatever the type hints say.
        headers: list[Any] = list(message.headers() or ())
        if headers[: len(self._headers)] != self._headers:
            theirs = stream_of_headers(headers, where)
            for field in ("run_id", "partitions", "rows_per_record"):
                if getattr(theirs, field) != getattr(stream, field):
                    raise RunMismatch(
                        f"{where}: {field} is {getattr(theirs, field)!r}, but the student reads {stream} with "
                        f"{getattr(stream, field)!r}; use one topic per run"
                    )
        schema_id, body = unframe(message.value(), where)
        codec = self._codecs.get(schema_id) or self._other_schema(schema_id, where)
        began = time.perf_counter()
        if self._tracing is None:
            record = codec.decode(body, where)
        else:
            with self._tracing.processed(headers, partition, offset):
                record = codec.decode(body, where)
        seconds = time.perf_counter() - began
        return Arrival(partition=partition, offset=offset, next_offset=offset + 1, record=record, where=where, decode_s=seconds)

    def _other_schema(self, schema_id: int, where: str) -> Codec:
        known = next(iter(self._codecs.values()))
        theirs = description_of(self._connection.registry.schema(schema_id), where, self._limits)
        if theirs != known.description:
            raise RunMismatch(f"{where}: the schema changed in the middle of a run, from {known.description} to {theirs}")
        self._codecs[schema_id] = known
        return known

    def hold(self, partitions: frozenset[int]) -> None:
        if self._consumer is None or partitions == self._held:
            return
        before, self._held = self._held, partitions
        self._consumer.pause([TopicPartition(self._topic, partition) for partition in partitions - before])
        self._consumer.resume([TopicPartition(self._topic, partition) for partition in before - partitions])

    def _refuse_other_topic(self) -> None:
        """TopicIdentityError if the topic is no longer the one that was opened."""
        try:
            now = self._asked.identity()
        except TransportError as error:
            log.debug("the identity of topic %s could not be checked: %s", self._topic, error)
            return
        if now != self._identity:
            raise TopicIdentityError(
                f"topic {self._topic} was {'recreated' if now else 'deleted'} while it was read; what was not read of it is lost"
            )

    def _refuse(self, message: Message) -> None:
        """Turn what the client reports into an error, unless it recovers from it by itself."""
        error = message.error()
        assert error is not None, "only called for errors"
        where = f"topic {self._topic}, partition {message.partition()}, offset {message.offset()}"
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise RetentionLoss(f"{where}: the broker no longer has this record ({error.str()}); raise retention.ms")
        if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION):
            raise TopicIdentityError(f"{where}: the topic or partition is gone; what was not read of it is lost")
        if error.code() in DENIED - _PASSING:
            raise AccessDenied(f"{where}: {describe(error)}. {NEEDS_ACL}")
        if error.code() not in _PASSING and not error.retriable():
            raise TransportError(f"{where}: {error.str()}")
        log.debug("%s: %s", where, error.str())

    @property
    def commits(self) -> bool:
        return self._group is not None

    def commit(self, position: Position) -> None:
        if self._group is not None and self._opened is not None:
            self._group.commit(self._asked, self._opened, position)

    def send(self, value: Any) -> None:
        self._controls().send(value)

    def recv(self, timeout_s: float) -> Any:
        return self._controls().recv(timeout_s=timeout_s, frm=f"the teacher of {self._topic}")

    def _controls(self) -> KafkaControl:
        if self._control is None:
            self._control = KafkaControl(
                self._connection,
                outbox=to_teacher_topic(self._topic),
                inbox=to_student_topic(self._topic),
                sender=f"student of {self._topic}",
            )
        return self._control

    def _leave_inherited(self) -> None:
        """In a forked child, leave the parent's clients alone and begin anew."""
        if self._pid != os.getpid():
            _INHERITED.extend((self._consumer, self._asked, self._control, self._ends, self._group))
            if self._group is not None:
                self._group = copy(self._group)
            self._forget_clients()
            self._pid = os.getpid()

    def _forget_clients(self) -> None:
        self._consumer = self._control = self._ends = self._opened = self._first = None
        self._asked = KafkaTopic(self._connection, self._topic)

    def close(self) -> None:
        self._leave_inherited()
        if self._group is not None:
            self._group.close()
        if self._consumer is not None:
            self._consumer.close()
        if self._control is not None:
            self._control.close()
        self._forget_clients()
        self._connection.registry.close()


def _taken(consumer: Consumer, most: int) -> list[Message]:
    """The messages that are there, at most so many; none if none comes for a moment.

    `consume` with a timeout would wait for all of them, and a lone record with it.
    """
    first = consumer.poll(0.1)
    if first is None:
        return []
    return [first, *consumer.consume(most - 1, 0)] if most > 1 else [first]
