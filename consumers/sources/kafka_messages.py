"""Messages of a topic -> arrivals of one run: other runs' messages are told apart by their headers, before anything is decoded."""

from __future__ import annotations

import logging
import time
from typing import Any

from tutelage.consumers.sources.base import ConsumedRecord
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
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.partition_reader import Message
from tutelage.transport.runs import FoundRun
from tutelage.transport.tracing import tracing_of

log = logging.getLogger(__name__)

_FIXED_FIELDS = ("run_id", "partitions", "rows_per_record")


class RunMessages:
    """Decodes the messages of one run.

    Guarantee: what it decodes is of the run, by the schema that its teacher wrote it with, or an error is raised.
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
        self._newer = ""
        self.stream = found.stream
        # Behind those that say who wrote it, others may add some to each record: a trace's, for one.
        self._headers: list[Any] = [
            header for header in message.headers() or () if header[0].startswith(HEADER_PREFIX)
        ]
        schema_id, _ = unframe(message.value(), where)
        #: The writer's schema, and what it says.
        self.schema = self._registry.schema(schema_id)
        self.description = description_from_schema(
            self.schema, f"schema {schema_id} of topic {topic}", limits
        )
        check_description(self._headers, self.description, f"{where}, schema {schema_id}")
        self._codec = Codec(self.description, limits=limits)
        self._schema_ids = {schema_id}

    @property
    def followed(self) -> bool:
        """Whether a message of a newer run was seen."""
        return bool(self._newer)

    def is_of_older_run(self, message: Message) -> bool | None:
        """Whether a message belongs to an older run than this one; None if it belongs to this one. A newer run is said once."""
        headers: list[Any] = list(message.headers() or ())
        if headers[: len(self._headers)] == self._headers:
            return None
        run = run_from_headers(headers)
        if run is None or run[0] == self.stream.run_id:
            return None
        if run[1] > self.stream.created and run[0] != self._newer:
            self._newer = run[0]
            log.warning(
                "topic %s: run %s has begun behind %s, which is still read",
                self._topic,
                printable(run[0]),
                self.stream,
            )
        return run[1] <= self.stream.created

    def arrival(self, message: Message) -> ConsumedRecord:
        """The record in a message of this run. DataError or SchemaError if it is not one of it."""
        partition, offset = message.partition(), message.offset()
        assert partition is not None and offset is not None, "a message that was read has a place"
        where = f"topic {self._topic}, partition {partition}, offset {offset}"
        # A list, whatever the type hints say.
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
        return ConsumedRecord(
            partition=partition,
            offset=offset,
            next_offset=offset + 1,
            record=record,
            where=where,
            decode_s=seconds,
        )

    def _check_headers(self, headers: list[Any], where: str) -> None:
        theirs = stream_from_headers(headers, where, self._limits)
        for field in _FIXED_FIELDS:
            if getattr(theirs, field) != getattr(self.stream, field):
                raise RunMismatch(
                    f"{where}: {field} is {getattr(theirs, field)!r}, but the student reads {self.stream} with "
                    f"{getattr(self.stream, field)!r}; that is fixed when a run begins"
                )
        check_description(headers, self.description, where)

    def _check_schema(self, schema_id: int, where: str) -> None:
        theirs = description_from_schema(
            self._registry.schema(schema_id), f"{where}, schema {schema_id}", self._limits
        )
        if theirs != self.description:
            raise RunMismatch(
                f"{where}: the schema changed in the middle of a run, from {self.description} to {theirs}"
            )
        self._schema_ids.add(schema_id)
