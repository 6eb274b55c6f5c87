"""How large what is read may be: checked before memory is asked for, so that a damaged or hostile length is an error, not a crash."""

from __future__ import annotations

from dataclasses import dataclass, fields

from tutelage.schemas.arguments import whole_number

# What a size can be at all.
_LARGEST = 2**63 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How large what is read may be. Sizes are checked before memory is asked for.

    A record, file or schema beyond a limit raises CorruptData or UnsupportedSchema, which name it
    and where. How deep a schema nests needs no limit: a schema of any other shape than
    `knowledge.avsc` is refused. A tensor's shape must agree with the bytes that are there, which
    `record_bytes` bounds.

    Args:
        record_bytes: Bytes of an Avro record, and of a file's block when it is unpacked.
        schema_bytes: Bytes of a schema's text.
        keys: Keys of a schema.
        dimensions: Dimensions of a tensor.

    Raises:
        ConfigurationError: A limit is no whole number from 1 on.
    """

    record_bytes: int = 1 << 30
    schema_bytes: int = 1 << 20
    keys: int = 10_000
    dimensions: int = 64

    def __post_init__(self) -> None:
        for field in fields(self):
            value = whole_number(f"limit {field.name}", getattr(self, field.name), most=_LARGEST)
            object.__setattr__(self, field.name, value)


DEFAULT_LIMITS = Limits()
