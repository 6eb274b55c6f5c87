"""Students: file, Kafka topic or memory -> ordered, aligned, merged batches of torch tensors.

Imported when they are first named: who reads files or copies topics does not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tutelage.schemas.late_imports import late_imports

if TYPE_CHECKING:
    from tutelage.consumers.dataset import KnowledgeDataset
    from tutelage.consumers.sources.base import Source
    from tutelage.consumers.sources.file import FileSource
    from tutelage.consumers.sources.kafka import KafkaSource
    from tutelage.consumers.sources.memory import MemorySource
    from tutelage.consumers.stages.ragged import RaggedFormat
    from tutelage.consumers.student import Student
    from tutelage.schemas.limits import Limits
    from tutelage.transport.memory_topic import MemoryTopic

_HOMES = {
    "FileSource": "tutelage.consumers.sources.file",
    "KafkaSource": "tutelage.consumers.sources.kafka",
    "KnowledgeDataset": "tutelage.consumers.dataset",
    "Limits": "tutelage.schemas.limits",
    "MemorySource": "tutelage.consumers.sources.memory",
    "MemoryTopic": "tutelage.transport.memory_topic",
    "RaggedFormat": "tutelage.consumers.stages.ragged",
    "Source": "tutelage.consumers.sources.base",
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
    "RaggedFormat",
    "Source",
    "Student",
]
