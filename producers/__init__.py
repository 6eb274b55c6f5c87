"""Teachers: inputs -> model on its devices -> records -> file, Kafka topic or memory.

Imported when they are first named: who reads files or copies topics does not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tutelage.schemas.late_imports import late_imports

if TYPE_CHECKING:
    from tutelage.producers.file_sink import FileSink
    from tutelage.producers.inputs import from_sample_lists, from_samples
    from tutelage.producers.kafka_sink import KafkaSink
    from tutelage.producers.lesson import Lesson
    from tutelage.producers.memory_sink import MemorySink
    from tutelage.producers.sink import Sink
    from tutelage.producers.teacher import Teacher
    from tutelage.schemas.memory_topic import MemoryTopic
    from tutelage.schemas.record import Ragged

_HOMES = {
    "FileSink": "tutelage.producers.file_sink",
    "KafkaSink": "tutelage.producers.kafka_sink",
    "Lesson": "tutelage.producers.lesson",
    "MemorySink": "tutelage.producers.memory_sink",
    "MemoryTopic": "tutelage.schemas.memory_topic",
    "Ragged": "tutelage.schemas.record",
    "Sink": "tutelage.producers.sink",
    "Teacher": "tutelage.producers.teacher",
    "from_sample_lists": "tutelage.producers.inputs",
    "from_samples": "tutelage.producers.inputs",
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
