"""Tutelage moves knowledge from teacher models to a student model through Kafka and Avro.

A teacher writes what a model knows; a student reads it as merged batches of torch tensors:

    from tutelage import FileSink, FileSource, Student, Teacher

    with Teacher(FileSink("teacher1.avro")) as teacher:
        teacher.serve(model, inputs)

    student = Student()
    student.register_teacher(FileSource("teacher1.avro"))
    with student:
        for batch in student.knowledge(batch_size=64):
            train(batch)

Every name is imported when it is first used: `import tutelage` loads neither torch nor a Kafka client.
"""

from __future__ import annotations

from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

# In the repository this folder holds little else; the packages beside it are part of `tutelage` as installed.
__path__ = extend_path(__path__, __name__)

if TYPE_CHECKING:
    import tutelage.augmentation as augmentation
    from tutelage.consumers import losses
    from tutelage.consumers.dataset import KnowledgeDataset
    from tutelage.consumers.delivery import KnowledgeIterator
    from tutelage.consumers.random_access.knowledge_file import KnowledgeFile, KnowledgeFiles
    from tutelage.consumers.shuffle import Shuffle
    from tutelage.consumers.sources.base import Source
    from tutelage.consumers.sources.file import FileSource
    from tutelage.consumers.sources.kafka import KafkaSource
    from tutelage.consumers.sources.memory import MemorySource
    from tutelage.consumers.sparse_target import SparseTarget
    from tutelage.consumers.stages.ragged import RaggedFormat
    from tutelage.consumers.student import Student
    from tutelage.on_policy.pacing import OnPolicy
    from tutelage.on_policy.query_writer import QueryWriter
    from tutelage.producers.head_run import write_head
    from tutelage.producers.lesson import Lesson
    from tutelage.producers.sinks.base import Sink
    from tutelage.producers.sinks.file import FileSink
    from tutelage.producers.sinks.kafka import KafkaSink
    from tutelage.producers.sinks.memory import MemorySink
    from tutelage.producers.stages.projected import Projected
    from tutelage.producers.stages.samples import from_sample_lists, from_samples
    from tutelage.producers.teacher import Teacher
    from tutelage.schemas.encodings import Int8, Sampled, TopK
    from tutelage.schemas.errors import (
        AccessDenied,
        BatchTooLarge,
        BrokerUnavailable,
        ConfigurationError,
        CorruptData,
        DataError,
        DeliveryFailed,
        DescriptionChanged,
        LengthMismatch,
        MergeError,
        QueryUnanswered,
        RecordTooLarge,
        RegistryUnavailable,
        RetentionLoss,
        RunMismatch,
        SampleMismatch,
        SchemaError,
        SequenceGap,
        SinkExists,
        TopicIdentityError,
        TransportError,
        TruncatedData,
        TutelageError,
        UnsupportedFormat,
        UnsupportedSchema,
        WaitTimeout,
    )
    from tutelage.schemas.limits import Limits
    from tutelage.schemas.record import Ragged
    from tutelage.transport.http_registry import HttpRegistry
    from tutelage.transport.local_registry import LocalRegistry
    from tutelage.transport.memory_topic import MemoryTopic

    __version__: str

_ERRORS = "tutelage.schemas.errors"
# Where each public name is; those that are not here are errors.
_MODULES = {
    "FileSink": "tutelage.producers.sinks.file",
    "FileSource": "tutelage.consumers.sources.file",
    "Int8": "tutelage.schemas.encodings",
    "HttpRegistry": "tutelage.transport.http_registry",
    "KafkaSink": "tutelage.producers.sinks.kafka",
    "KafkaSource": "tutelage.consumers.sources.kafka",
    "KnowledgeDataset": "tutelage.consumers.dataset",
    "KnowledgeFile": "tutelage.consumers.random_access.knowledge_file",
    "KnowledgeFiles": "tutelage.consumers.random_access.knowledge_file",
    "KnowledgeIterator": "tutelage.consumers.delivery",
    "Lesson": "tutelage.producers.lesson",
    "Limits": "tutelage.schemas.limits",
    "LocalRegistry": "tutelage.transport.local_registry",
    "MemorySink": "tutelage.producers.sinks.memory",
    "MemorySource": "tutelage.consumers.sources.memory",
    "MemoryTopic": "tutelage.transport.memory_topic",
    "OnPolicy": "tutelage.on_policy.pacing",
    "Projected": "tutelage.producers.stages.projected",
    "QueryWriter": "tutelage.on_policy.query_writer",
    "Ragged": "tutelage.schemas.record",
    "RaggedFormat": "tutelage.consumers.stages.ragged",
    "Sampled": "tutelage.schemas.encodings",
    "Shuffle": "tutelage.consumers.shuffle",
    "Sink": "tutelage.producers.sinks.base",
    "Source": "tutelage.consumers.sources.base",
    "SparseTarget": "tutelage.consumers.sparse_target",
    "Student": "tutelage.consumers.student",
    "Teacher": "tutelage.producers.teacher",
    "TopK": "tutelage.schemas.encodings",
    "from_sample_lists": "tutelage.producers.stages.samples",
    "from_samples": "tutelage.producers.stages.samples",
    "write_head": "tutelage.producers.head_run",
}


if not TYPE_CHECKING:  # type checkers see the names above, and no others

    def __getattr__(name: str) -> Any:
        """A public name, imported from its module (PEP 562)."""
        from importlib import import_module
        from importlib.metadata import version

        if name == "__version__":
            return version("tutelage")
        if name in ("augmentation", "losses"):
            return import_module(f"tutelage.{name}")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_MODULES.get(name, _ERRORS)), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "AccessDenied",
    "BatchTooLarge",
    "BrokerUnavailable",
    "ConfigurationError",
    "CorruptData",
    "DataError",
    "DeliveryFailed",
    "DescriptionChanged",
    "FileSink",
    "FileSource",
    "HttpRegistry",
    "Int8",
    "KafkaSink",
    "KafkaSource",
    "KnowledgeDataset",
    "KnowledgeFile",
    "KnowledgeFiles",
    "KnowledgeIterator",
    "LengthMismatch",
    "Lesson",
    "Limits",
    "LocalRegistry",
    "MemorySink",
    "MemorySource",
    "MemoryTopic",
    "MergeError",
    "OnPolicy",
    "Projected",
    "QueryWriter",
    "Ragged",
    "RaggedFormat",
    "RecordTooLarge",
    "RegistryUnavailable",
    "RetentionLoss",
    "RunMismatch",
    "QueryUnanswered",
    "SampleMismatch",
    "Sampled",
    "SchemaError",
    "SequenceGap",
    "Shuffle",
    "Sink",
    "SinkExists",
    "Source",
    "SparseTarget",
    "Student",
    "Teacher",
    "TopK",
    "TopicIdentityError",
    "TransportError",
    "TruncatedData",
    "TutelageError",
    "UnsupportedFormat",
    "UnsupportedSchema",
    "WaitTimeout",
    "__version__",
    "augmentation",
    "from_sample_lists",
    "from_samples",
    "losses",
    "write_head",
]
