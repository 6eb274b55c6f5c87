"""Packed records -> one topic, with everything that must be watched while a run is written to it.

It sends the records, waits for the student if the teacher is too far ahead, and watches that the
topic stays the same one and keeps its records long enough. It knows nothing of codecs or tails.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from tutelage.producers.sinks.kafka_settings import KafkaSinkSettings
from tutelage.producers.sinks.placement import RunPlacement
from tutelage.schemas.record import Array, RecordHead, Stream
from tutelage.transport.backpressure import Backpressure
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.deliveries import Deliveries
from tutelage.transport.outages import through_outages
from tutelage.transport.run_watch import TopicWatch
from tutelage.transport.sending import Sending
from tutelage.transport.topic_admin import KafkaTopic
from tutelage.transport.topic_setup import Retention, TopicInfo, inspect_topic
from tutelage.transport.tracing import tracing_of
from tutelage.transport.transactions import transactional_options
from tutelage.transport.waiting import Wait

log = logging.getLogger(__name__)


class TopicWriter:
    """Writes one run to one topic. Call `connect`, `watch` and `begin` before `write`; close it.

    Guarantee: a record that `write` took is on the brokers once `finish` has returned. After the
    first failure nothing more is sent.

    Args:
        connection: The cluster and its registry.
        topic: The topic's name.
        settings: How to create the topic and write to it.
    """

    def __init__(
        self, connection: KafkaConnection, topic: str, settings: KafkaSinkSettings
    ) -> None:
        self._connection = connection
        self._topic = topic
        self._settings = settings
        self._deliveries = Deliveries(topic, settings.delivery_timeout_s)
        self._sending: Sending | None = None
        self._watch: TopicWatch | None = None
        self._retention: Retention | None = None
        self._backpressure: Backpressure | None = None
        self._student_wait: Wait | None = None

    @property
    def wait(self) -> Wait | None:
        """The current wait for the student or for room in the client's queue, or None.

        Safe in any thread.
        """
        return self._student_wait or (self._sending.wait if self._sending is not None else None)

    @property
    def queued(self) -> tuple[int, int]:
        """How many records, and how many bytes, are not acknowledged yet."""
        return self._deliveries.in_flight, self._deliveries.bytes_in_flight

    @property
    def records_by_partition(self) -> Mapping[int, int]:
        """Partition -> records written, end records included."""
        return dict(self._deliveries.by_partition)

    def observe_deliveries(self, observe: Callable[[float], None]) -> None:
        """Call a function with the seconds that each delivery took."""
        self._deliveries.on_delivery = observe

    def connect(self, topic: KafkaTopic, wait: Wait) -> TopicInfo | None:
        """Open the client and inspect the topic. Asks again while the brokers are away.

        Returns:
            The topic; None if it is missing and must be created.

        Raises:
            ConfigurationError: The topic cannot be used, or is missing and may not be created.
            TransportError: The brokers failed, or were away for too long.
        """
        options = transactional_options(self._topic) if self._settings.transactional else None
        producer = self._connection.producer(options)
        self._sending = Sending(
            producer,
            self._topic,
            self._deliveries,
            delivery_timeout_s=self._settings.delivery_timeout_s,
        )
        return through_outages(
            lambda: inspect_topic(topic, self._topic, producer, self._settings.topic), wait
        )

    def fence_other_writers(self) -> None:
        """If the sink is transactional, end other writers and abort their open transactions."""
        if self._settings.transactional:
            self._connected().take_over()

    def watch(self, topic_id: str) -> None:
        """Watch from now on that the topic stays the one with this id."""
        self._watch = TopicWatch(
            self._connection,
            self._topic,
            topic_id=topic_id,
            transactional=self._settings.transactional,
        )
        self._deliveries.on_offset = self._watch.delivered

    def begin(
        self,
        stream: Stream,
        headers: Mapping[str, bytes],
        placement: RunPlacement,
        *,
        retention_s: float | None,
    ) -> None:
        """Begin or continue a run.

        Args:
            stream: The run.
            headers: The Kafka headers of each record.
            placement: Where the run lies in the topic.
            retention_s: How long the topic keeps records; None if unknown or without limit.
        """
        limit = self._settings.backpressure
        if limit is not None:
            self._backpressure = Backpressure(
                self._connection,
                self._topic,
                placement.begins,
                group=limit.group,
                max_ahead=limit.max_ahead,
                timeout_s=limit.timeout_s,
            )
        self._retention = Retention(self._topic, retention_s, stream.created)
        tracing = tracing_of(self._topic, self._connection.client_id)
        self._connected().begin(headers, created=stream.created, tracing=tracing)
        if self._watch is not None:
            self._watch.begin(stream, list(placement.topic_ends))

    def write(self, head: RecordHead, packed: Array, placement: RunPlacement) -> None:
        """Send a record to each partition that lacks it. The client copies `packed`."""
        backpressure = self._backpressure
        if backpressure is not None and head.end is None:
            self._await_student(backpressure)
        sending = self._connected()
        sending.begin_transaction()
        for partition in placement.missing.partitions_without(head):
            sending.send(partition, packed, head)
            if backpressure is not None:
                backpressure.written()

    def poll(self) -> None:
        """Process deliveries, and raise what they or the watches have found."""
        self._connected().serve()
        if self._watch is not None:
            self._watch.look()
        if self._retention is not None:
            self._retention.look()

    def finish(self) -> None:
        """Wait until the brokers have every record, in the topic that the run began in."""
        self._connected().flush()
        if self._watch is not None:
            # Acknowledged records are lost if the topic was recreated meanwhile.
            self._watch.look()
            what = f"the brokers to say whether topic {self._topic} is still the same"
            wait = Wait(what, timeout_s=self._settings.delivery_timeout_s, log=log)
            through_outages(self._watch.check_identity, wait)

    def close(self) -> None:
        """Release the clients. Records that are not delivered yet are given up. May be called
        twice."""
        if self._backpressure is not None:
            self._backpressure.close()
            self._backpressure = None
        if self._sending is not None:
            self._sending.close()
            self._sending = None

    def _await_student(self, backpressure: Backpressure) -> None:
        self._student_wait = backpressure.wait()
        try:
            while self._student_wait is not None and not backpressure.has_room_after_a_moment():
                self.poll()
                self._student_wait.tick()
        finally:
            self._student_wait = None

    def _connected(self) -> Sending:
        assert self._sending is not None, "connect comes first"
        return self._sending
