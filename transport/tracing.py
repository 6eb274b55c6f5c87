"""Trace context in records' headers (W3C `traceparent`), if the process has set up OpenTelemetry.

Otherwise nothing is imported or done. Spans follow the messaging conventions
(https://opentelemetry.io/docs/specs/semconv/messaging/kafka/): `send TOPIC` lasts from sending a
record to its acknowledgement; `process TOPIC` covers its decoding, in the sender's trace.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

from tutelage.schemas.record import RecordHead

Header = tuple[str, "str | bytes | None"]


def tracing_of(topic: str, client_id: str) -> Tracing | None:
    """Return what makes spans and headers for a topic's records.

    None unless the program, or `opentelemetry-instrument`, has set up a tracer provider.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or isinstance(
        trace.get_tracer_provider(), (trace.ProxyTracerProvider, trace.NoOpTracerProvider)
    ):
        return None
    return Tracing(trace, topic, client_id)


class Tracing:
    """Makes the spans of one topic's records.

    Args:
        trace: The module `opentelemetry.trace`.
        topic: The topic.
        client_id: The Kafka client's id.
    """

    def __init__(self, trace: Any, topic: str, client_id: str) -> None:
        from opentelemetry import propagate

        self._trace = trace
        self._propagate = propagate
        self._tracer = trace.get_tracer("tutelage")
        self._topic = topic
        self._attributes = {
            "messaging.system": "kafka",
            "messaging.destination.name": topic,
            "messaging.client.id": client_id,
        }

    def sent(
        self, partition: int, head: RecordHead
    ) -> tuple[list[Header], Callable[[str | None], None]]:
        """Begin a record's span.

        Returns:
            The headers that carry it, and a function that ends it with an error or None.
        """
        span = self._tracer.start_span(
            f"send {self._topic}",
            kind=self._trace.SpanKind.PRODUCER,
            attributes={**self._about("send", partition), **_of_record(head)},
        )
        carrier: dict[str, str] = {}
        self._propagate.inject(carrier, context=self._trace.set_span_in_context(span))

        def ended(error: str | None) -> None:
            if error is not None:
                span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, error))
            span.end()

        return [(name, value.encode()) for name, value in carrier.items()], ended

    def processed(self, headers: Iterable[Header], partition: int, offset: int) -> Any:
        """Return a context manager: the span of decoding a record, in the sender's trace."""
        # Foreign headers may hold anything.
        ours = self._propagate.get_global_textmap().fields
        carrier = {
            name: value.decode("utf-8", "replace")
            for name, value in headers
            if name in ours and isinstance(value, bytes)
        }
        return self._tracer.start_as_current_span(
            f"process {self._topic}",
            context=self._propagate.extract(carrier),
            kind=self._trace.SpanKind.CONSUMER,
            attributes={**self._about("process", partition), "messaging.kafka.offset": offset},
        )

    def _about(self, operation: str, partition: int) -> dict[str, Any]:
        return {
            **self._attributes,
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
            "messaging.destination.partition.id": str(partition),
        }


def _of_record(head: RecordHead) -> dict[str, Any]:
    return {
        "tutelage.pass": head.pass_index,
        "tutelage.sequence": head.sequence,
        "tutelage.rows": head.rows,
    }
