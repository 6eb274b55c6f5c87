"""What a sink or a source needs of a schema registry, and the rules for registering a schema there.

Schemas are registered under `<topic>-value`. A changed dtype or row shape, which a registry cannot
see, is refused here. The registries themselves are in `http_registry.py` and `local_registry.py`.
"""

from __future__ import annotations

from typing import Protocol

from tutelage.schemas.errors import ConfigurationError
from tutelage.schemas.knowledge_schema import description_from_schema
from tutelage.schemas.record import Description, check_compatible
from tutelage.transport.addresses import registry_address
from tutelage.transport.http_registry import HttpRegistry


class Registry(Protocol):
    """What a sink or source needs of a registry: write one of your own with these methods."""

    def connect(self) -> None:
        """Load the client, so that the first call is fast. Sends no request."""

    def prepare(self, subject: str) -> list[str]:
        """Set a subject's compatibility, unless others do that, and return its schemas.

        Args:
            subject: The subject, such as `TOPIC-value`.

        Returns:
            The text of every schema of the subject, oldest first.

        Raises:
            RegistryUnavailable: The registry did not answer.
        """

    def register(self, subject: str, schema: str) -> int:
        """Register a schema under a subject. The same schema gets the same id again.

        Args:
            subject: The subject.
            schema: The schema's text, JSON.

        Returns:
            The schema's id.

        Raises:
            SchemaError: The registry refuses it, or others must register it and have not.
            AccessDenied: The registry denies this client access.
            RegistryUnavailable: The registry did not answer.
        """

    def schema(self, schema_id: int) -> str:
        """Return the schema with an id.

        Args:
            schema_id: The id.

        Returns:
            The schema's text, JSON.

        Raises:
            SchemaError: The registry has no such schema.
            RegistryUnavailable: The registry did not answer.
        """

    def close(self) -> None:
        """Release connections."""


def checked_registry(given: Registry | str | None) -> Registry:
    """Return a registry unchanged, or the one at a URL.

    Args:
        given: A registry or a URL. With None, the URL comes from the environment, or is the default
            on this machine.

    Raises:
        ConfigurationError: It is neither, or the URL is not valid.
    """
    if given is None or isinstance(given, str):
        return HttpRegistry(registry_address(given))
    missing = [
        name
        for name in ("connect", "prepare", "register", "schema", "close")
        if not callable(getattr(given, name, None))
    ]
    if missing:
        raise ConfigurationError(
            f"registry is of type {type(given).__name__}, which has no {missing[0]}(); it must be "
            "a URL or a registry such as HttpRegistry"
        )
    return given


def register_description(
    registry: Registry, subject: str, versions: list[str], description: Description, schema: str
) -> int:
    """Register a stream's schema, if it fits every earlier schema of the subject.

    Args:
        registry: The registry.
        subject: The subject.
        versions: The subject's schemas, oldest first.
        description: What the stream's records hold.
        schema: The stream's schema, JSON.

    Returns:
        The schema's id.

    Raises:
        DescriptionChanged: A key's dtype or row shape differs from that in an earlier version.
    """
    for index, version in enumerate(versions, start=1):
        where = f"subject {subject}, version {index}"
        check_compatible(description_from_schema(version, where), description, where)
    return registry.register(subject, schema)
