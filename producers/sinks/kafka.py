"""Records -> a Kafka topic: partition s mod P, exactly once by sequence, restarted writers included."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tutelage.producers.sinks.base import Sink
from tutelage.schemas.arguments import check_flag, check_seconds, check_text, check_whole_number
from tutelage.schemas.codec import Encoded
from tutelage.schemas.errors import ConfigurationError, SinkExists
from tutelage.schemas.framing import frame
from tutelage.schemas.headers import stream_headers
from tutelage.schemas.knowledge_schema import schema_from_description
from tutelage.schemas.record import Array, Description, RecordHead, Stream
from tutelage.schemas.tail import Tail, is_missing
from tutelage.schemas.topic import (
    check_topic,
    partition_for,
    to_student_topic,
    to_teacher_topic,
    value_subject,
)
from tutelage.transport.backpressure import Backpressure
from tutelage.transport.connection import (
    MESSAGE_HEADROOM_BYTES,
    KafkaConnection,
)
from tutelage.transport.control_topics import KafkaControl
from tutelage.transport.deliveries import Deliveries
from tutelage.transport.outages import once_known, through_outages
from tutelage.transport.registry import Registry, register_description
from tutelage.transport.run_watch import TopicWatch
from tutelage.transport.runs import TopicRuns
from tutelage.transport.sending import Sending
from tutelage.transport.tail import read_tail
from tutelage.transport.topic_admin import KafkaTopic
from tutelage.transport.topic_setup import (
    Retention,
    TopicSpec,
    checked_settings,
    create_topic,
    inspect_topic,
    stored_as_sent,
    too_large,
)
from tutelage.transport.tracing import tracing_of
from tutelage.transport.transactions import transactional_options
from tutelage.transport.waiting import Wait

log = logging.getLogger(__name__)

_NO_BUFFER: Array = np.empty(0, np.uint8)


class KafkaSink(Sink):
    """Writes a run to a Kafka topic: record s to partition s mod P, exactly once by its number.

    A topic that is missing is created with settings for large records: `cleanup.policy=delete`,
    `max.message.bytes=16777216`, `retention.ms=604800000`. Each unsafe setting of a topic that is
    there is logged as a warning.

    Guarantee: a record that `write` took is on the brokers once `finish` returned. A failed
    delivery stops the sink, so that no record is ever behind a missing one. A second writer of the
    same run can only write what is there already.

    Args:
        topic: The topic's name.
        bootstrap_servers: `HOST:PORT`, several of them with commas between, or a list. If not
            given, `TUTELAGE_BOOTSTRAP_SERVER` of the environment, else `localhost:9092`.
        registry: The schema registry's URL, or a registry object. If not given, `TUTELAGE_REGISTRY`
            of the environment, else `http://localhost:8081/apis/ccompat/v7`.
        partitions: Partitions of the run. If not given, all that the topic has; 4 of a new topic.
        replication: Replicas of a new topic; -1 for the cluster's default.
        create: Whether to create the topic if it is missing. With False a missing topic is an
            error.
        topic_settings: Settings of a new topic, by Kafka's names, over those above.
        options: Options of the Kafka client (librdkafka's names), passed on as they are.
        delivery_timeout_s: How long brokers may be away, in seconds, at the start and later, before
            the teacher stops.
        max_ahead: How many records the teacher may be ahead of what `student_group` has committed.
            No bound if not given.
        student_group: The consumer group of the student that `max_ahead` counts from: the `group`
            of its `KafkaSource`.
        student_timeout_s: How long to wait for that student, in seconds.
        transactional: Write in transactions of about a second, for foreign readers of committed
            data. A second writer then ends the first.

    Raises:
        ConfigurationError: An argument has the wrong type or value; `max_ahead` without
            `student_group`, or together with `transactional`.
    """

    linger_s = 0.02
    holds_runs = True

    def __init__(
        self,
        topic: str,
        *,
        bootstrap_servers: str | Sequence[str] | None = None,
        registry: Registry | str | None = None,
        partitions: int | None = None,
        replication: int = -1,
        create: bool = True,
        topic_settings: Mapping[str, str | int | float] | None = None,
        options: Mapping[str, object] | None = None,
        delivery_timeout_s: float = 120.0,
        max_ahead: int | None = None,
        student_group: str | None = None,
        student_timeout_s: float = 3600.0,
        transactional: bool = False,
    ) -> None:
        if (max_ahead is None) != (student_group is None):
            raise ConfigurationError(
                "max_ahead is a number of records, at least 1, and goes with the student's group, student_group"
            )
        if check_flag("transactional", transactional) and max_ahead is not None:
            raise ConfigurationError(
                "max_ahead counts records, and transactions add some of their own: use one or the other"
            )
        self._topic = check_topic(topic)
        client_id = f"tutelage-teacher-{topic}"
        self._connection = KafkaConnection(
            bootstrap_servers, registry=registry, options=options, client_id=client_id
        )
        self._asked_partitions = (
            check_whole_number("partitions", partitions) if partitions is not None else None
        )
        self._replication = (
            check_whole_number("replication", replication) if replication != -1 else -1
        )
        self._create = check_flag("create", create)
        self._topic_settings = {**stored_as_sent(options or {}), **checked_settings(topic_settings)}
        self._retention_s: float | None = None
        self._retention: Retention | None = None
        self._delivery_timeout_s = check_seconds("delivery_timeout_s", delivery_timeout_s)
        self._max_ahead = (
            check_whole_number("max_ahead", max_ahead) if max_ahead is not None else None
        )
        self._student_group = (
            check_text("student_group", student_group) if student_group is not None else None
        )
        self._student_timeout_s = check_seconds("student_timeout_s", student_timeout_s)
        self._transactional = transactional
        self._pace: Backpressure | None = None
        self._sending: Sending | None = None
        self._control: KafkaControl | None = None
        self._frame = b""
        self._buffers: list[Array] = []
        self._schemas: list[str] = []
        self._missing: list[tuple[int, int]] = []
        self._deliveries = Deliveries(topic, self._delivery_timeout_s)
        self._watch: TopicWatch | None = None
        self._run_id = ""
        # The time of the newest record of older runs, where each partition ended when the topic was looked at, and from where this run's
        # records lie there.
        self._newest_s = self._control_since_s = 0.0
        self._ends: list[int] = []
        self._begins: list[int] = []

    def __repr__(self) -> str:
        return f"KafkaSink({self._topic!r}, {self._connection.bootstrap_servers!r})"

    @property
    def name(self) -> str:
        return f"topic {self._topic}"

    @property
    def label(self) -> str:
        return self._topic

    def watch_deliveries(self, observe: Callable[[float], None]) -> None:
        self._deliveries.on_delivery = observe

    @property
    def wait(self) -> Wait | None:
        return self._wait or (self._sending.wait if self._sending is not None else None)

    @property
    def queued(self) -> tuple[int, int]:
        return self._deliveries.in_flight, self._deliveries.bytes_in_flight

    @property
    def records_by_partition(self) -> Mapping[int, int]:
        return dict(self._deliveries.by_partition)

    def tail(self) -> Tail | None:
        settings = transactional_options(self._topic) if self._transactional else None
        producer = self._connection.producer(settings)
        self._sending = Sending(
            producer, self._topic, self._deliveries, delivery_timeout_s=self._delivery_timeout_s
        )
        asked = KafkaTopic(self._connection, self._topic)
        wish = TopicSpec(
            partitions=self._asked_partitions,
            replication=self._replication,
            settings=self._topic_settings,
            create=self._create,
        )
        self._wait = wait = Wait(
            f"the brokers at {self._connection.where}", timeout_s=self._delivery_timeout_s, log=log,
            hint="they may be away for delivery_timeout_s (--delivery-timeout); are they running, and is this their address?",
        )  # fmt: skip
        target = through_outages(lambda: inspect_topic(asked, self._topic, producer, wish), wait)
        # Asked before the first record, which then need not wait for it.
        self._schemas = self._connection.registry.prepare(value_subject(self._topic))
        if self._transactional:
            # Before anything is read: what others left open hides what they wrote.
            self._sending.take_over()
        found = None
        if target is not None:
            there = target.partitions
            found = through_outages(lambda: read_tail(self._connection, self._topic, there), wait)
        # Only now: whatever else is missing was said before, and left nothing behind.
        target = target or through_outages(lambda: create_topic(asked, wish), wait)
        topic_id = once_known(lambda: asked.topic_id(asked.described()), wait)
        self._wait = None
        self.max_record_bytes = (
            target.limit - MESSAGE_HEADROOM_BYTES if target.limit is not None else None
        )
        self._retention_s = target.retention_s
        self._watch = TopicWatch(
            self._connection, self._topic, topic_id=topic_id, transactional=self._transactional
        )
        self._deliveries.on_offset = self._watch.delivered
        self._ends = found.ends if found is not None else [0] * target.partitions
        self._begin(self._asked_partitions or target.partitions, target.partitions)
        if found is None:
            return None
        self._missing, self.partitions = found.missing, found.tail.stream.partitions
        self._begins, self._newest_s = found.begins, found.tail.newest_s
        return found.tail

    def begin_run(self, run_id: str | None) -> None:
        if (
            run_id is not None
            and TopicRuns(self._connection, self._topic).named(run_id) is not None
        ):
            raise SinkExists(
                f"topic {self._topic} holds run {run_id}, and a newer one behind it; only the newest run of a topic is continued"
            )
        self._begin(self._asked_partitions or len(self._ends), len(self._ends))
        self._control_since_s = self._newest_s

    def _begin(self, partitions: int, there: int) -> None:
        """Have a run begin at the topic's end, in so many of its partitions."""
        if partitions > there:
            raise SinkExists(
                f"topic {self._topic} has {there} partitions, fewer than the {partitions} asked for"
            )
        self.partitions = partitions
        self._missing = [(0, partition) for partition in range(partitions)]
        self._begins = self._ends[:partitions]

    def open(self, stream: Stream, description: Description) -> None:
        if stream.partitions != self.partitions:
            raise SinkExists(
                f"the run has {stream.partitions} partitions, topic {self._topic} is used with {self.partitions}"
            )
        subject = value_subject(self._topic)
        schema_id = register_description(
            self._connection.registry,
            subject,
            self._schemas,
            description,
            schema_from_description(description),
        )
        if self._max_ahead is not None and self._student_group is not None:
            self._pace = Backpressure(
                self._connection,
                self._topic,
                self._begins,
                group=self._student_group,
                max_ahead=self._max_ahead,
                timeout_s=self._student_timeout_s,
            )
        self._retention = Retention(self._topic, self._retention_s, stream.created)
        self._frame = frame(schema_id)
        tracing = tracing_of(self._topic, self._connection.client_id)
        self._opened().begin(
            dict(stream_headers(stream, description)), created=stream.created, tracing=tracing
        )
        if self._watch is not None:
            self._watch.begin(stream, self._ends)

    def pack(self, encoded: Encoded) -> Array:
        limit = self.max_record_bytes
        if limit is not None and encoded.nbytes > limit and encoded.head.rows:
            raise too_large(self._topic, encoded, limit)
        # Into memory that was used before: fresh pages cost as much as the copy. The client copies it once more, so it is free again
        # when `write` returns.
        size = len(self._frame) + encoded.nbytes
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = _NO_BUFFER
        if buffer.nbytes < size:
            buffer = np.empty(size, np.uint8)
        return _joined(buffer[:size], (self._frame, *encoded.buffers))

    def write(self, head: RecordHead, packed: Array) -> None:
        if self._pace is not None and head.end is None:
            self._await_student(self._pace)
        sending = self._opened()
        sending.begin_transaction()
        where = (
            range(self.partitions)
            if head.end is not None
            else (partition_for(head.sequence, self.partitions),)
        )
        for partition in where:
            if is_missing(head, self._missing[partition]):
                sending.send(partition, packed, head)
                if self._pace is not None:
                    self._pace.written()
        self._buffers.append(packed if packed.base is None else packed.base)
        self.poll()

    def _await_student(self, pace: Backpressure) -> None:
        self._wait = pace.wait()
        try:
            while self._wait is not None and not pace.has_room_after_a_moment():
                self.poll()
                self._wait.tick()
        finally:
            self._wait = None

    def poll(self) -> None:
        self._opened().serve()
        if self._watch is not None:
            self._watch.look()
        if self._retention is not None:
            self._retention.look()

    def finish(self) -> None:
        self._opened().flush()
        if self._watch is not None:
            # Acknowledged records are in this topic only if it was not recreated meanwhile.
            self._watch.look()
            what = f"the brokers to say whether topic {self._topic} is still the same"
            through_outages(
                self._watch.check_identity, Wait(what, timeout_s=self._delivery_timeout_s, log=log)
            )

    def close(self) -> None:
        if self._pace is not None:
            self._pace.close()
            self._pace = None
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._sending is not None:
            self._sending.close()
            self._sending = None
        self._connection.registry.close()

    def send(self, value: Any) -> None:
        self._controls().send(value)

    def recv(self, timeout_s: float) -> Any:
        return self._controls().recv(timeout_s=timeout_s, frm="the student")

    def ask(self, value: Any, timeout_s: float) -> Any:
        return self._controls().ask(value, timeout_s=timeout_s, frm="the student")

    def speak_of(self, run_id: str) -> None:
        self._run_id = run_id
        if self._control is not None:
            self._control.conversation.run_id = run_id

    def _controls(self) -> KafkaControl:
        if self._control is None:
            self._control = KafkaControl(
                self._connection,
                outbox=to_student_topic(self._topic),
                inbox=to_teacher_topic(self._topic),
                sender=f"teacher of {self._topic}",
                is_teacher=True,
                since_s=self._control_since_s,
                replication=self._replication,
                create=self._create,
            )
            self._control.conversation.run_id = self._run_id
        return self._control

    def _opened(self) -> Sending:
        assert self._sending is not None, "tail comes before write"
        return self._sending


def _joined(target: Array, buffers: Iterable[Any]) -> Array:
    """The buffers one behind the other in the target, copied without the interpreter's lock."""
    at = 0
    for buffer in buffers:
        part = buffer if isinstance(buffer, np.ndarray) else np.frombuffer(buffer, np.uint8)
        target[at : at + part.nbytes] = part
        at += part.nbytes
    return target
