"""Teachers: inputs -> model on its devices -> records -> file, Kafka topic or memory.

Imported when they are first named: who reads files or copies topics does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tutelage.producers.file_sink import FileSink
    from tutelage.producers.inputs import from_sample_lists, from_samples
    from tutelage.producers.kafka_sink import KafkaSink
    from tutelage.producers.lesson import Lesson
    from tutelage.producers.sink import MemorySink, Sink
    from tutelage.producers.teacher import Teacher
    from tutelage.schemas.memory_topic import MemoryTopic
    from tutelage.schemas.record import Ragged

_HOMES = {
    "FileSink": "tutelage.producers.file_sink",
    "KafkaSink": "tutelage.producers.kafka_sink",
    "Lesson": "tutelage.producers.lesson",
    "MemorySink": "tutelage.producers.sink",
    "MemoryTopic": "tutelage.schemas.memory_topic",
    "Ragged": "tutelage.schemas.record",
    "Sink": "tutelage.producers.sink",
    "Teacher": "tutelage.producers.teacher",
    "from_sample_lists": "tutelage.producers.inputs",
    "from_samples": "tutelage.producers.inputs",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


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
