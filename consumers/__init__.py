"""Students: file, Kafka topic or memory -> ordered, aligned, merged batches of torch tensors."""

from tutelage.consumers.dataset import KnowledgeDataset
from tutelage.consumers.file_source import FileSource
from tutelage.consumers.kafka_source import KafkaSource
from tutelage.consumers.merge import RaggedOptions
from tutelage.consumers.source import MemorySource, Source
from tutelage.consumers.student import Student
from tutelage.schemas.limits import Limits
from tutelage.schemas.memory_topic import MemoryTopic

__all__ = [
    "FileSource",
    "KafkaSource",
    "KnowledgeDataset",
    "Limits",
    "MemorySource",
    "MemoryTopic",
    "RaggedOptions",
    "Source",
    "Student",
]
