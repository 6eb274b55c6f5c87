"""Teachers: inputs -> model on its devices -> records -> file, Kafka topic or memory.

Imported when they are first named: who reads files or copies topics does not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tutelage.schemas.late_imports import late_imports

if TYPE_CHECKING:
    from tutelage.producers.lesson import Lesson
    from tutelage.producers.sinks.base import Sink
    from tutelage.producers.sinks.file import FileSink
    from tutelage.producers.sinks.kafka import KafkaSink
    from tutelage.producers.sinks.memory import MemorySink
    from tutelage.producers.stages.inputs import from_sample_lists, from_samples
    from tutelage.producers.teacher import Teacher
    from tutelage.schemas.record import Ragged
    from tutelage.transport.memory_topic import MemoryTopic

_HOMES = {
    "FileSink": "tutelage.producers.sinks.file",
    "KafkaSink": "tutelage.producers.sinks.kafka",
    "Lesson": "tutelage.producers.lesson",
    "MemorySink": "tutelage.producers.sinks.memory",
    "MemoryTopic": "tutelage.transport.memory_topic",
    "Ragged": "tutelage.schemas.record",
    "Sink": "tutelage.producers.sinks.base",
    "Teacher": "tutelage.producers.teacher",
    "from_sample_lists": "tutelage.producers.stages.inputs",
    "from_samples": "tutelage.producers.stages.inputs",
}

__getattr__ = late_imports(__name__, _HOMES)

__all__ = [
    "FileSink",
    "KafkaSink",
    "Lesson",
    "MemorySink",
    "MemoryTopic",
    "Ragged",
    "Sink",
    "Teacher",
    "from_sample_lists",
    "from_samples",
]
