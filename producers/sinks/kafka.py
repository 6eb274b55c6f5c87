"""Records -> a Kafka topic: record s to partition s mod P, each record once.

A restarted or second writer continues the run that the topic holds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from tutelage.producers.record_share import ALL_RECORDS, RecordShare
from tutelage.producers.sinks.base import ControlChannel, Sink
from tutelage.producers.sinks.kafka_control import TeacherControl
from tutelage.producers.sinks.kafka_packing import MessagePacker
from tutelage.producers.sinks.kafka_settings import KafkaSinkSettings, check_settings
from tutelage.producers.sinks.kafka_writer import TopicWriter
from tutelage.producers.sinks.placement import MissingRecords, RunPlacement
from tutelage.schemas.codec import Encoded
from tutelage.schemas.errors import ConfigurationError, SinkExists
from tutelage.schemas.headers import stream_headers
from tutelage.schemas.knowledge_schema import schema_from_description
from tutelage.schemas.record import Array, Description, RecordHead, Stream
from tutelage.schemas.tail import Tail
from tutelage.schemas.topic import check_topic, value_subject
from tutelage.transport.connection import MESSAGE_HEADROOM_BYTES, KafkaConnection
from tutelage.transport.outages import once_known, through_outages
from tutelage.transport.registry import Registry, register_description
from tutelage.transport.runs import TopicRuns
from tutelage.transport.tail import TopicTail, read_tail
from tutelage.transport.topic_admin import KafkaTopic
from tutelage.transport.topic_setup import DEFAULT_PARTITIONS, TopicInfo, create_topic, too_large
from tutelage.transport.waiting import Wait

log = logging.getLogger(__name__)


class KafkaSink(Sink):
    """Writes a run to a Kafka topic: record s to partition s mod P, each record once.

    A missing topic is created with settings for large records: `cleanup.policy=delete`,
    `max.message.bytes=16777216`, `retention.ms=604800000`. For an existing topic, each unsafe
    setting is logged as a warning.

    Guarantee: a record that `write` took is on the brokers once `finish` has returned. A failed
    delivery stops the sink, so that no record ever follows a missing one. A second writer of the
    same run can only write the records that are there already.

    Args:
        topic: The topic's name.
        bootstrap_servers: `HOST:PORT`, several of them separated by commas, or a list. If not
            given, `TUTELAGE_BOOTSTRAP_SERVER` of the environment, else `localhost:9092`.
        registry: The schema registry's URL, or a registry object. If not given, `TUTELAGE_REGISTRY`
            of the environment, else `http://localhost:8081/apis/ccompat/v7`.
        partitions: Partitions of the run. If not given, all that the topic has; 4 in a new topic.
        replication: Replicas of a new topic; -1 for the cluster's default.
        create: Whether to create the topic if it is missing. If False, a missing topic is an
            error.
        topic_settings: Settings of a new topic, by Kafka's names. They override those above.
        options: Options of the Kafka client, by librdkafka's names, passed on unchanged.
        delivery_timeout_s: How long the brokers may be away, in seconds, at the start and later,
            before the teacher stops.
        max_ahead: How many records the teacher may be ahead of what `student_group` has committed.
            Unlimited if not given.
        student_group: The consumer group that `max_ahead` counts from: the `group` of the
            student's `KafkaSource`.
        student_timeout_s: How long to wait for that student, in seconds.
        transactional: Whether to write in transactions of about a second, for other readers with
            `isolation.level=read_committed`. A second writer then ends the first.

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
        self._topic = check_topic(topic)
        client_id = f"tutelage-teacher-{topic}"
        self._connection = KafkaConnection(
            bootstrap_servers, registry=registry, options=options, client_id=client_id
        )
        self._settings = settings = check_settings(
            partitions=partitions,
            replication=replication,
            create=create,
            topic_settings=topic_settings,
            options=options,
            delivery_timeout_s=delivery_timeout_s,
            max_ahead=max_ahead,
            student_group=student_group,
            student_timeout_s=student_timeout_s,
            transactional=transactional,
        )
        self._writer = TopicWriter(self._connection, topic, settings)
        self._packer = MessagePacker()
        self._control = TeacherControl(
            self._connection,
            topic,
            replication=settings.topic.replication,
            create=settings.topic.create,
        )
        self._retention_s: float | None = None
        self._share = ALL_RECORDS
        self._placement = RunPlacement.of_new_run(topic, [], None)
        # When the newest record of older runs was written, in seconds since the epoch.
        self._newest_s = 0.0
        # The schemas that the topic's subject has in the registry.
        self._schemas: list[str] = []

    def __repr__(self) -> str:
        return f"KafkaSink({self._topic!r}, {self._connection.bootstrap_servers!r})"

    @property
    def name(self) -> str:
        return f"topic {self._topic}"

    @property
    def label(self) -> str:
        return self._topic

    @property
    def connection(self) -> KafkaConnection:
        """How the sink reaches Kafka."""
        return self._connection

    @property
    def settings(self) -> KafkaSinkSettings:
        """How the sink creates its topic and writes to it."""
        return self._settings

    def watch_deliveries(self, observe: Callable[[float], None]) -> None:
        self._writer.observe_deliveries(observe)

    @property
    def wait(self) -> Wait | None:
        return self._wait or self._writer.wait

    @property
    def queued(self) -> tuple[int, int]:
        return self._writer.queued

    @property
    def records_by_partition(self) -> Mapping[int, int]:
        return self._writer.records_by_partition

    def share_with(self, share: RecordShare) -> None:
        if self._settings.transactional or self._settings.backpressure is not None:
            raise ConfigurationError(
                f"{self.name}: several ranks write to it, which neither transactional=True nor "
                "max_ahead goes with: a transaction ends other writers, and max_ahead counts the "
                "records of one"
            )
        if (asked := self._settings.topic.partitions) is not None:
            share.check_partitions(asked, self.name)
        self._share = share

    def tail(self) -> Tail | None:
        spec = self._settings.topic
        topic = KafkaTopic(self._connection, self._topic)
        self._wait = wait = self._wait_for_brokers()
        info = self._writer.connect(topic, wait)
        # Requested here so that the first record need not wait for the registry.
        self._schemas = self._connection.registry.prepare(value_subject(self._topic))
        # Before the tail is read: a transaction that another writer left open hides its records.
        self._writer.fence_other_writers()
        found = self._read_tail(info.partitions, wait) if info is not None else None
        if info is None:
            self._share.check_partitions(spec.partitions or DEFAULT_PARTITIONS, self.name)
        # Created last, so that an earlier error leaves no topic behind.
        info = info or through_outages(lambda: create_topic(topic, spec), wait)
        self._writer.watch(once_known(lambda: topic.topic_id(topic.described()), wait))
        self._wait = None
        self._use(info, found)
        return found.tail if found is not None else None

    def look_again(self, run_id: str) -> Tail | None:
        found = self._read_tail(len(self._placement.topic_ends), self._wait_for_brokers())
        if found is None or found.tail.stream.run_id != run_id:
            return None
        self._continue(found)
        return found.tail

    def _wait_for_brokers(self) -> Wait:
        return Wait(
            f"the brokers at {self._connection.where}",
            timeout_s=self._settings.delivery_timeout_s,
            log=log,
            hint="they may be away for delivery_timeout_s (--delivery-timeout); are they running, "
            "and is this their address?",
        )

    def _read_tail(self, partitions: int, wait: Wait) -> TopicTail | None:
        return through_outages(
            lambda: read_tail(self._connection, self._topic, partitions, owned=self._share.owned),
            wait,
        )

    def _use(self, info: TopicInfo, found: TopicTail | None) -> None:
        """Take over what was found out about the topic and its newest run."""
        self._retention_s = info.retention_s
        self.max_record_bytes = (
            info.limit - MESSAGE_HEADROOM_BYTES if info.limit is not None else None
        )
        self._place_new_run(found.ends if found is not None else [0] * info.partitions)
        if found is not None:
            self._continue(found)

    def _continue(self, found: TopicTail) -> None:
        """Go on with the newest run."""
        self.partitions = count = found.tail.stream.partitions
        self._newest_s = found.tail.newest_s
        self._placement = RunPlacement(
            missing=MissingRecords(found.missing, self._share.owned(count)),
            begins=found.begins,
            topic_ends=found.ends,
        )

    def begin_run(self, run_id: str | None) -> None:
        if (
            run_id is not None
            and TopicRuns(self._connection, self._topic).named(run_id) is not None
        ):
            raise SinkExists(
                f"topic {self._topic} holds run {run_id}, and a newer one behind it; only the "
                "newest run of a topic is continued"
            )
        self._place_new_run(self._placement.topic_ends)
        self._control.ignore_before(self._newest_s)

    def _place_new_run(self, topic_ends: Sequence[int]) -> None:
        asked = self._settings.topic.partitions
        self._placement = RunPlacement.of_new_run(self._topic, topic_ends, asked, self._share)
        self.partitions = asked or len(topic_ends)

    def open(self, stream: Stream, description: Description) -> None:
        if stream.partitions != self.partitions:
            raise SinkExists(
                f"the run has {stream.partitions} partitions, topic {self._topic} is used with "
                f"{self.partitions}"
            )
        subject = value_subject(self._topic)
        schema_id = register_description(
            self._connection.registry,
            subject,
            self._schemas,
            description,
            schema_from_description(description),
        )
        self._packer.use_schema(schema_id)
        headers = dict(stream_headers(stream, description))
        self._writer.begin(stream, headers, self._placement, retention_s=self._retention_s)

    def pack(self, encoded: Encoded) -> Array:
        limit = self.max_record_bytes
        if limit is not None and encoded.nbytes > limit and encoded.head.rows:
            raise too_large(self._topic, encoded, limit)
        return self._packer.pack(encoded)

    def write(self, head: RecordHead, packed: Array) -> None:
        self._writer.write(head, packed, self._placement)
        self._packer.release(packed)
        self._writer.poll()

    def poll(self) -> None:
        self._writer.poll()

    def finish(self) -> None:
        self._writer.finish()

    def close(self) -> None:
        self._writer.close()
        self._control.close()
        self._connection.registry.close()

    def bind_run(self, run_id: str) -> None:
        self._control.bind_run(run_id)

    def _control_channel(self) -> ControlChannel:
        return self._control
