"""A schema registry in this process's memory, for tests and single-process programs."""

from __future__ import annotations

from tutelage.schemas.errors import SchemaError


class LocalRegistry:
    """A registry in this process's memory, for tests and single-process programs.

    It keeps schemas as long as the object lives, and checks no compatibility.
    """

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._subjects: dict[str, list[str]] = {}

    def connect(self) -> None:
        """As `Registry.connect`; does nothing."""

    def register(self, subject: str, schema: str) -> int:
        """As `Registry.register`."""
        schema_id = self._ids.setdefault(schema, len(self._ids) + 1)
        versions = self._subjects.setdefault(subject, [])
        if schema not in versions:
            versions.append(schema)
        return schema_id

    def schema(self, schema_id: int) -> str:
        """As `Registry.schema`."""
        for schema, known in self._ids.items():
            if known == schema_id:
                return schema
        raise SchemaError(f"the local registry has no schema {schema_id}")

    def prepare(self, subject: str) -> list[str]:
        """As `Registry.prepare`; sets no compatibility."""
        return list(self._subjects.get(subject, ()))

    def close(self) -> None:
        """As `Registry.close`; does nothing."""
