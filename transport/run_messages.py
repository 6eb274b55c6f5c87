"""Kafka messages -> the records of one run.

Messages of other runs are recognized by their headers, before anything is decoded. Knows nothing of
offsets to read from, or of consumers.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Message

from tutelage.schemas.codec import Codec
from tutelage.schemas.errors import RunMismatch
from tutelage.schemas.framing import unframe
from tutelage.schemas.headers import (
    HEADER_PREFIX,
    check_description,
    run_from_headers,
    stream_from_headers,
)
from tutelage.schemas.knowledge_schema import description_from_schema
from tutelage.schemas.limits import Limits
from tutelage.schemas.printable import printable
from tutelage.schemas.record import Record
from tutelage.schemas.tensor_layout import dense_layout
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.runs import FoundRun
from tutelage.transport.tracing import tracing_of

log = logging.getLogger(__name__)

# At most: the lengths of a header's name and value; what else surrounds a record's tensors, in
# the record, its frame, its message and a batch of one message.
_HEADER_BYTES = 6
_FRAMING_BYTES = 256
_FIXED_FIELDS = ("run_id", "partitions", "rows_per_record", "teacher", "revision")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunMessage:
    """One decoded message of a run.

    Args:
        partition: Its partition.
        offset: Its offset.
        record: The record.
        where: Its topic, partition and offset in words, for messages.
        seconds: How long decoding took.
    """

    partition: int
    offset: int
    record: Record
    where: str
    seconds: float


class RunMessages:
    """Decodes the messages of one run.

    Guarantee: every decoded record belongs to the run and matches the schema that its writer
    registered, or an error is raised.

    Args:
        connection: How Kafka and the registry are reached.
        topic: The topic's name, for messages.
        found: The run, and one of its messages.
        limits: How large records, schemas and shapes may be.

    Raises:
        SchemaError: The schema is not one of Tutelage's, or not the one that the headers name.
    """

    def __init__(
        self, connection: KafkaConnection, topic: str, found: FoundRun, limits: Limits
    ) -> None:
        message = found.message
        where = f"topic {topic}, partition {message.partition()}, offset {message.offset()}"
        self._registry = connection.registry
        self._topic = topic
        self._limits = limits
        self._tracing = tracing_of(topic, connection.client_id)
        # The id of a newer run, once a message of it came.
        self._newer = ""
        self.stream = found.stream
        # Other programs may append headers to a record, such as a trace's; these come before them.
        self._headers: list[Any] = [
            header for header in message.headers() or () if header[0].startswith(HEADER_PREFIX)
        ]
        schema_id, _ = unframe(message.value(), where)
        #: The writer's schema, as JSON text.
        self.schema = self._registry.schema(schema_id)
        self.description = description_from_schema(
            self.schema, f"schema {schema_id} of topic {topic}", limits
        )
        check_description(self._headers, self.description, f"{where}, schema {schema_id}")
        self._codec = Codec(self.description, limits=limits)
        self._schema_ids = {schema_id}

    @property
    def record_bytes(self) -> int:
        """The most that one of the run's records takes in the topic; 0 if that is not known.

        It is not known if keys are ragged.
        """
        stored = self.description.stored
        if any(spec.ragged for spec in stored.specs):
            return 0
        return (
            dense_layout(stored, self.stream.rows_per_record).nbytes
            + sum(len(name) + len(value or b"") + _HEADER_BYTES for name, value in self._headers)
            + len(self.stream.run_id.encode())
            + _FRAMING_BYTES
        )

    @property
    def followed(self) -> bool:
        """Whether a message of a newer run came."""
        return bool(self._newer)

    def is_of_older_run(self, message: Message) -> bool | None:
        """Return whether a message of another run belongs to an older one.

        Returns None for a message to decode: one of this run, or one that names no run. The first
        message of a newer run logs a warning.
        """
        headers: list[Any] = list(message.headers() or ())
        if headers[: len(self._headers)] == self._headers:
            return None
        run = run_from_headers(headers)
        if run is None or run[0] == self.stream.run_id:
            return None
        if run[1] > self.stream.created and run[0] != self._newer:
            self._newer = run[0]
            log.warning(
                "topic %s: run %s has begun after %s, which is still being read",
                self._topic,
                printable(run[0]),
                self.stream,
            )
        return run[1] <= self.stream.created

    def decode(self, message: Message) -> RunMessage:
        """Decode the record in a message of this run.

        Raises:
            DataError, SchemaError: The message is damaged, or does not fit the run.
        """
        partition, offset = message.partition(), message.offset()
        assert partition is not None and offset is not None, "a consumed message has both"
        where = f"topic {self._topic}, partition {partition}, offset {offset}"
        # The client gives a list, although its type hints allow a dict.
        headers: list[Any] = list(message.headers() or ())
        if headers[: len(self._headers)] != self._headers:
            self._check_headers(headers, where)
        schema_id, body = unframe(message.value(), where)
        if schema_id not in self._schema_ids:
            self._check_schema(schema_id, where)
        began = time.perf_counter()
        if self._tracing is None:
            record = self._codec.decode(body, where)
        else:
            with self._tracing.processed(headers, partition, offset):
                record = self._codec.decode(body, where)
        seconds = time.perf_counter() - began
        return RunMessage(
            partition=partition, offset=offset, record=record, where=where, seconds=seconds
        )

    def _check_headers(self, headers: list[Any], where: str) -> None:
        theirs = stream_from_headers(headers, where, self._limits)
        for field in _FIXED_FIELDS:
            if getattr(theirs, field) != getattr(self.stream, field):
                raise RunMismatch(
                    f"{where}: {field} is {getattr(theirs, field)!r}, but what is read is "
                    f"{self.stream} with {getattr(self.stream, field)!r}; that is fixed when a run "
                    "begins"
                )
        check_description(headers, self.description, where)

    def _check_schema(self, schema_id: int, where: str) -> None:
        theirs = description_from_schema(
            self._registry.schema(schema_id), f"{where}, schema {schema_id}", self._limits
        )
        if theirs != self.description:
            raise RunMismatch(
                f"{where}: the schema changed in the middle of a run, from {self.description} to "
                f"{theirs}"
            )
        self._schema_ids.add(schema_id)
