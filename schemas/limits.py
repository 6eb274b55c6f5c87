"""How large what is read may be: checked before memory is asked for, so that a damaged or hostile length is an error, not a crash."""

from __future__ import annotations

from dataclasses import dataclass, fields

from tutelage.schemas.arguments import whole_number

# What a size can be at all.
_LARGEST = 2**63 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits of a source. A record, file or schema beyond one is CorruptData or UnsupportedSchema, naming it and where.

    record_bytes  an Avro record, and a file's block when it is unpacked
    schema_bytes  a schema's text
    keys          keys of a schema
    dimensions    of a tensor

    How deep a schema nests needs no limit: any but the closed shape of `knowledge.avsc` is refused. A shape's product must be the bytes that are
    there, which a record's size bounds.
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
