"""Traces that go from teacher to student with the records, where the program has OpenTelemetry; and nothing at all where it has not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tutelage import KafkaSink, KafkaSource, Student, Teacher
from tutelage.transport.tracing import Tracing, tracing_of

PROGRAM = """
import json, sys, torch
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
kept = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(kept))
trace.set_tracer_provider(provider)
from tutelage import KafkaSource, Student
from tutelage import KafkaSink, Teacher
topic, kafka = sys.argv[1], json.loads(sys.argv[2])
with trace.get_tracer("mine").start_as_current_span("night shift"):
    with Teacher(KafkaSink(topic, partitions=2, **kafka), rows_per_record=5) as teacher:
        teacher.write({"x": torch.arange(20)})
student = Student(timeout_s=30)
student.register_teacher(KafkaSource(topic, **kafka))
with student:
    assert [len(batch["x"]) for batch in student.knowledge(20)] == [20]
print(json.dumps([
    [span.name, span.kind.name, f"{span.context.trace_id:x}", f"{span.context.span_id:x}",
     f"{span.parent.span_id:x}" if span.parent else None, dict(span.attributes)]
    for span in kept.get_finished_spans()
]))
"""


def test_a_record_s_way_is_one_trace(
    kafka: dict[str, Any], topic_name: Callable[[str], str], tmp_path: Path
) -> None:
    import json

    topic = topic_name("traced")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, topic, json.dumps(kafka)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    spans = json.loads(done.stdout)
    (shift,) = [span for span in spans if span[0] == "night shift"]
    sent = [span for span in spans if span[0] == f"send {topic}"]
    processed = [span for span in spans if span[0] == f"process {topic}"]
    # Four records, and the end in each of two partitions.
    assert len(sent) == len(processed) == 6
    assert {span[2] for span in spans} == {shift[2]}
    assert {span[4] for span in sent} == {shift[3]}
    assert sorted(span[4] for span in processed) == sorted(span[3] for span in sent)
    assert {
        (span[1], span[5]["messaging.system"], span[5]["messaging.operation.type"])
        for span in sent + processed
    } == {
        ("PRODUCER", "kafka", "send"),
        ("CONSUMER", "kafka", "process"),
    }
    assert {span[5]["messaging.destination.partition.id"] for span in sent} == {"0", "1"}
    # Who has no OpenTelemetry reads such a topic like any other.
    student = Student(timeout_s=30)
    student.register_teacher(KafkaSource(topic, **kafka))
    with student:
        assert [len(batch["x"]) for batch in student.knowledge(8)] == [8, 8, 4]


def test_without_a_tracer_provider_nothing_is_traced_or_imported(kafka: dict[str, Any]) -> None:
    program = (
        "import sys\nfrom tutelage import KafkaSink, KafkaSource, Student, Teacher\n"
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert tracing_of("t", "c") is None
    import opentelemetry.trace  # the interface alone, nothing set up

    assert opentelemetry.trace is not None and tracing_of("t", "c") is None
    assert Teacher(KafkaSink("untraced", **kafka)).activity.begun is False


def test_headers_of_others_may_hold_anything() -> None:
    import opentelemetry.trace
    from opentelemetry.sdk.trace import TracerProvider

    tracing = Tracing(opentelemetry.trace, "t", "c")
    tracing._tracer = TracerProvider().get_tracer("test")
    with tracing.processed(
        [("binary", b"\xff\xfe\x00"), ("traceparent", b"\xff"), ("none", None)], 0, 0
    ) as span:
        assert span.parent is None
