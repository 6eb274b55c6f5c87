"""How large what is read may be. Checked before memory is taken, so that a damaged or hostile length is an error, not a crash."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from tutelage.schemas.arguments import whole_number
from tutelage.schemas.errors import ConfigurationError

# What a size can be at all.
_LARGEST = 2**63 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits of a source, and of a student's batches. What is beyond one is a typed error that names it and where it was found.

    record_bytes  an Avro record, and a file's block when it is unpacked
    schema_bytes  a schema's text
    keys          keys of a schema
    dimensions    of a tensor
    partitions    partitions that a stream's headers may name
    empty_rows    rows of a record that is shorter than one byte a row: all its keys hold nothing
    batch_bytes   a student's batch, of all keys together, as it is read and as it is given (padded, stacked, ...)

    `FileSource` and `KafkaSource` take all of them but `batch_bytes`, which `Student` takes. How deep a schema nests needs no limit: any
    but the closed shape of `knowledge.avsc` is refused. A shape's product must be the bytes that are there, which a record's size bounds.
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
