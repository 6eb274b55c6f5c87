"""Teachers: inputs -> model on its devices -> records -> file, Kafka topic or memory."""

from tutelage.producers.file_sink import FileSink
from tutelage.producers.inputs import from_sample_lists, from_samples
from tutelage.producers.kafka_sink import KafkaSink
from tutelage.producers.lesson import Lesson
from tutelage.producers.sink import MemorySink, Sink
from tutelage.producers.teacher import Teacher
from tutelage.schemas.memory_topic import MemoryTopic
from tutelage.schemas.record import Ragged

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
