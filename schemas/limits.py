"""Limits on the sizes that are read. They are checked before memory is taken: a damaged length is an error, not a crash."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from tutelage.schemas.arguments import whole_number
from tutelage.schemas.errors import ConfigurationError

# What a size can be at all.
_LARGEST = 2**63 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits on what is read, and on a student's batches. They are checked before memory is taken.

    What is beyond a limit raises a typed error, which names the limit and where it was met.
    `FileSource` and `KafkaSource` take all of them but `batch_bytes`, which `Student` takes. How deep
    a schema nests needs no limit: a schema of any other shape than `knowledge.avsc` is refused. A
    tensor's shape must agree with the bytes that are there, which `record_bytes` bounds.

    Args:
        record_bytes: Bytes of an Avro record, and of a file's block when it is unpacked.
        schema_bytes: Bytes of a schema's text.
        keys: Keys of a schema.
        dimensions: Dimensions of a tensor.
        partitions: Partitions that a stream's headers may name.
        empty_rows: Rows of a record that has fewer bytes than rows: its keys hold nothing.
        batch_bytes: Bytes of a student's batch, all keys together, as it is read and as it is given
            (padded, stacked).

    Raises:
        ConfigurationError: A limit is no whole number from 1 on.
    """

    record_bytes: int = 1 << 30
    schema_bytes: int = 1 << 20
    keys: int = 10_000
    dimensions: int = 64
    # Kafka clusters hold some 200,000 partitions of all topics together.
    partitions: int = 10_000
    empty_rows: int = 1 << 22
    batch_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        for field in fields(self):
            value = whole_number(f"limit {field.name}", getattr(self, field.name), most=_LARGEST)
            object.__setattr__(self, field.name, value)


def checked_limits(value: Any) -> Limits:
    """The limits themselves. ConfigurationError for anything else."""
    if not isinstance(value, Limits):
        raise ConfigurationError(f"limits is {value!r}; it must be a Limits")
    return value


DEFAULT_LIMITS = Limits()
