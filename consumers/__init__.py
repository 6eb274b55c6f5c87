"""Students: file, Kafka topic or memory -> ordered, aligned, merged batches of torch tensors.

Imported when they are first named: who reads files or copies topics does not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tutelage.schemas.late_imports import late_imports

if TYPE_CHECKING:
    from tutelage.consumers.dataset import KnowledgeDataset
    from tutelage.consumers.file_source import FileSource
    from tutelage.consumers.kafka_source import KafkaSource
    from tutelage.consumers.memory_source import MemorySource
    from tutelage.consumers.ragged import RaggedOptions
    from tutelage.consumers.source import Source
    from tutelage.consumers.student import Student
    from tutelage.schemas.limits import Limits
    from tutelage.schemas.memory_topic import MemoryTopic

_HOMES = {
    "FileSource": "tutelage.consumers.file_source",
    "KafkaSource": "tutelage.consumers.kafka_source",
    "KnowledgeDataset": "tutelage.consumers.dataset",
    "Limits": "tutelage.schemas.limits",
    "MemorySource": "tutelage.consumers.memory_source",
    "MemoryTopic": "tutelage.schemas.memory_topic",
    "RaggedOptions": "tutelage.consumers.ragged",
    "Source": "tutelage.consumers.source",
    "Student": "tutelage.consumers.student",
}

__getattr__ = late_imports(__name__, _HOMES)

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
