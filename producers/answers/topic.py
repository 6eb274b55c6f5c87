"""The topic of answers: created or checked, its partitions' tails, and answers on their way to it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from tutelage.producers.sinks.kafka_packing import MessagePacker
from tutelage.producers.sinks.kafka_settings import KafkaSinkSettings
from tutelage.schemas.codec import Codec
from tutelage.schemas.errors import DescriptionChanged, SinkExists
from tutelage.schemas.headers import stream_headers
from tutelage.schemas.knowledge_schema import schema_from_description
from tutelage.schemas.record import Column, Description, RecordHead, Stream
from tutelage.schemas.topic import value_subject
from tutelage.transport.connection import MESSAGE_HEADROOM_BYTES, KafkaConnection
from tutelage.transport.deliveries import Deliveries
from tutelage.transport.outages import once_known, through_outages
from tutelage.transport.partition_tails import read_partition_tails
from tutelage.transport.registry import register_description
from tutelage.transport.sending import Sending
from tutelage.transport.topic_admin import KafkaTopic
from tutelage.transport.topic_identity import IdentityCheck
from tutelage.transport.topic_setup import TopicInfo, create_topic, inspect_topic, too_large
from tutelage.transport.tracing import tracing_of
from tutelage.transport.waiting import Wait

log = logging.getLogger(__name__)


class AnswerTopic:
    """Writes the answers of one run, each to its query's partition under its query's sequence.

    Guarantee: answers of a partition are sent in the order of `send`; after the first failure
    nothing more is sent. Close it.

    Args:
        connection: The cluster and its registry.
        name: The topic.
        settings: How to create the topic and write to it.
        stream: The run of the answers.
    """

    def __init__(
        self, connection: KafkaConnection, name: str, settings: KafkaSinkSettings, stream: Stream
    ) -> None:
        self._connection = connection
        self._name = name
        self._settings = settings
        self.stream = stream
        self._admin = KafkaTopic(connection, name)
        self._deliveries = Deliveries(name, settings.delivery_timeout_s)
        # A student waits for each answer; those of one call come together anyway.
        self._producer = connection.producer({"linger.ms": 0})
        self._sending = Sending(
            self._producer,
            name,
            self._deliveries,
            delivery_timeout_s=settings.delivery_timeout_s,
        )
        self._packer = MessagePacker()
        self._limit: int | None = None
        self._schemas: list[str] = []
        self._identity: IdentityCheck | None = None
        self._codec: Codec | None = None
        # Partitions that hold the end of the last pass.
        self._complete: set[int] = set()

    def open(self) -> None:
        """Create the topic, or check it.

        Raises:
            SinkExists: The topic has fewer partitions than the queries.
            ConfigurationError: The topic cannot be used.
            TransportError: The brokers or the registry failed.
        """
        wait = Wait(
            f"the brokers at {self._connection.where}",
            timeout_s=self._settings.delivery_timeout_s,
            log=log,
        )
        partitions = self.stream.partitions
        spec = replace(self._settings.topic, partitions=partitions)
        found: TopicInfo | None = through_outages(
            lambda: inspect_topic(self._admin, self._name, self._producer, spec), wait
        )
        info = found or through_outages(lambda: create_topic(self._admin, spec), wait)
        if info.partitions < partitions:
            raise SinkExists(
                f"topic {self._name} has {info.partitions} partitions, and the queries have "
                f"{partitions}; an answer goes to its query's partition, so give it as many"
            )
        if info.limit is not None:
            self._limit = info.limit - MESSAGE_HEADROOM_BYTES
        self._schemas = self._connection.registry.prepare(value_subject(self._name))
        topic_id = once_known(lambda: self._admin.topic_id(self._admin.described()), wait)
        self._identity = IdentityCheck(
            self._admin,
            self._name,
            topic_id,
            doing="answers were written to it; its earlier records are gone",
            advice="Begin a new run of queries",
        )

    def missing(self, partitions: Iterable[int]) -> dict[int, tuple[int, int]]:
        """Return the pass and sequence of the first answer that each partition lacks.

        Raises:
            SinkExists: The answers that are there are of another teacher, revision or description.
            TransportError: The brokers or the registry failed.
        """
        wait = Wait(
            f"the ends of topic {self._name}",
            timeout_s=self._settings.delivery_timeout_s,
            log=log,
        )
        wanted = list(partitions)
        tails = through_outages(
            lambda: read_partition_tails(self._connection, self._name, self.stream, wanted), wait
        )
        if tails.written is not None:
            theirs, description = tails.written
            self._check_same(theirs)
            self._begin(description)
        return dict(tails.missing)

    def is_complete(self) -> bool:
        """Whether the topic holds every answer of the run, whoever wrote them.

        Looks at one partition that lacks some, and at the others once it lacks none.
        """
        for partition in range(self.stream.partitions):
            if partition not in self._complete:
                pass_index, _ = self.missing([partition])[partition]
                if pass_index < self.stream.passes:
                    return False
                self._complete.add(partition)
        return True

    def _check_same(self, theirs: Stream) -> None:
        if theirs.created != self.stream.created:
            raise SinkExists(
                f"topic {self._name} holds answers to an earlier run with the same id "
                f"{self.stream.run_id!r}, whose queries were deleted; they would be taken for answers "
                "to these queries. Delete the topic of answers, or write the queries under another "
                "run_id"
            )
        differs = [
            f"{name} {getattr(theirs, name)!r} there, {getattr(self.stream, name)!r} here"
            for name in ("teacher", "revision", "head")
            if getattr(theirs, name) != getattr(self.stream, name)
        ]
        if differs:
            raise SinkExists(
                f"topic {self._name} holds answers to {self.stream} by another teacher: "
                f"{'; '.join(differs)}. Replicas must be of one model; answer to another topic"
            )

    def write(
        self,
        partition: int,
        head: RecordHead,
        columns: Mapping[str, Sequence[Column]],
        description: Description | None,
    ) -> int:
        """Send an answer, or with an end in its head, the end of a pass.

        Args:
            partition: The partition.
            head: The answer's head.
            columns: Key -> its rows, in pieces; empty for an end.
            description: What the answer holds; None for an end.

        Returns:
            Its bytes.

        Raises:
            DescriptionChanged: Other answers hold something else.
            RecordTooLarge: The answer is larger than the topic accepts.
            TransportError: This answer, or an earlier one, could not be written.
        """
        if description is not None:
            self._begin(description)
        if self._codec is None:
            raise DescriptionChanged(
                f"topic {self._name}: {head} follows no answer, so what answers hold is not known"
            )
        encoded = self._codec.encode(head, columns)
        if self._limit is not None and encoded.nbytes > self._limit and head.rows:
            raise too_large(self._name, encoded, self._limit)
        packed = self._packer.pack(encoded)
        self._sending.send(partition, packed, head)
        self._packer.release(packed)
        return encoded.nbytes

    @property
    def description(self) -> Description | None:
        """What answers hold; None until one is known. Before that no end can be written. Safe in any
        thread."""
        codec = self._codec
        return codec.description if codec is not None else None

    @property
    def in_flight(self) -> int:
        """Answers that the brokers have not acknowledged yet."""
        return self._deliveries.in_flight

    def on_written(self, note: Callable[[int], None]) -> None:
        """Call a function with the partition of each answer that the brokers have acknowledged."""
        self._deliveries.on_offset = lambda partition, offset: note(partition)

    def _begin(self, description: Description) -> None:
        """Register the description of the answers, once."""
        if self._codec is not None:
            if description != self._codec.description:
                raise DescriptionChanged(
                    f"topic {self._name}: answers hold {self.description}, and now {description}; "
                    "every answer of a run holds the same keys"
                )
            return
        schema_id = register_description(
            self._connection.registry,
            value_subject(self._name),
            self._schemas,
            description,
            schema_from_description(description),
        )
        self._packer.use_schema(schema_id)
        self._sending.begin(
            dict(stream_headers(self.stream, description)),
            created=self.stream.created,
            tracing=tracing_of(self._name, self._connection.client_id),
        )
        self._codec = Codec(description)

    def poll(self) -> None:
        """Process deliveries. Raises if one failed, or if the topic was recreated."""
        self._sending.serve()
        if self._identity is not None:
            self._identity.look()

    def flush(self) -> None:
        """Wait until the brokers have every answer that was sent.

        Raises:
            TransportError: One could not be written.
        """
        self._sending.flush()

    def finish(self) -> None:
        """Wait until the brokers have every answer, in the topic that answers were begun in.

        Raises:
            TransportError: One could not be written, or no broker said which topic it is.
            TopicIdentityError: The topic was recreated.
        """
        self.flush()
        if self._identity is not None:
            # Answers that were acknowledged are lost if the topic was recreated meanwhile.
            what = f"the brokers to say whether topic {self._name} is still the same"
            wait = Wait(what, timeout_s=self._settings.delivery_timeout_s, log=log)
            through_outages(self._identity.check, wait)

    def close(self) -> None:
        """Release the client. May be called twice."""
        self._sending.close()
        self._connection.registry.close()
