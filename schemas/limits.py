"""Limits on the sizes that are read.

They are checked before memory is allocated: a damaged length is an error, not a crash.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from tutelage.schemas.arguments import check_whole_number
from tutelage.schemas.errors import ConfigurationError

# The largest size that the format can express.
_LARGEST = 2**63 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits on what is read, and on a student's batches. Checked before memory is allocated.

    Whatever exceeds a limit raises a typed error that names the limit and the place.
    `FileSource` and `KafkaSource` apply all of them except `batch_bytes`, which `Student` applies.
    The depth of a schema needs no limit: a schema of any other form than `knowledge.avsc` is an
    error. A tensor's shape must agree with the size of its data, which `record_bytes` limits.

    Args:
        record_bytes: Bytes of an Avro record, and of a file's block after decompression.
        schema_bytes: Bytes of a schema's text.
        keys: Keys of a schema.
        dimensions: Dimensions of a tensor.
        partitions: Partitions that a stream's headers may name.
        empty_rows: Rows of a record that has fewer bytes than rows, because its keys hold nothing.
        batch_bytes: Bytes of a student's batch, all keys together, both as it is read and as it is
            returned (padded, stacked).

    Raises:
        ConfigurationError: A limit is not a whole number from 1 on.
    """

    record_bytes: int = 1 << 30
    schema_bytes: int = 1 << 20
    keys: int = 10_000
    dimensions: int = 64
    # A Kafka cluster holds some 200,000 partitions, all topics together.
    partitions: int = 10_000
    empty_rows: int = 1 << 22
    batch_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        for field in fields(self):
            value = check_whole_number(
                f"limit {field.name}", getattr(self, field.name), most=_LARGEST
            )
            object.__setattr__(self, field.name, value)


def check_limits(value: Any) -> Limits:
    """Return the limits.

    Raises:
        ConfigurationError: The value is not a `Limits`.
    """
    if not isinstance(value, Limits):
        raise ConfigurationError(f"limits is {value!r}; it must be a Limits")
    return value


DEFAULT_LIMITS = Limits()
