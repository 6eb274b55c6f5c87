"""Schema id <-> schema: a Confluent-compatible registry over HTTP, and one in memory for tests and single processes.

Every call has a timeout. Schemas are registered under `<topic>-value` with FULL_TRANSITIVE compatibility, by us or by those who may; what a registry
cannot see, a changed dtype or row shape, is refused here.
"""

from __future__ import annotations

import logging
import os
import warnings
from typing import TYPE_CHECKING, Protocol

from tutelage.schemas.errors import AccessDenied, RegistryUnavailable, SchemaError, TutelageError
from tutelage.schemas.knowledge_schema import description_of, same_schema
from tutelage.schemas.record import Description, refuse_changes

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import RegisteredSchema, SchemaRegistryClient

log = logging.getLogger(__name__)

COMPATIBILITY = "FULL_TRANSITIVE"
NOT_FOUND_STATUS = 404
_DENIED_STATUS = (401, 403)


class Registry(Protocol):
    """What a sink or source needs of a registry."""

    def connect(self) -> None:
        """Load what it takes to speak to it (a second, for HTTP), so that the first call is quick. Asks nothing yet."""

    def prepare(self, subject: str) -> list[str]:
        """Ask for FULL_TRANSITIVE compatibility of a subject's schemas, where that is ours to do, and give all it has, oldest first."""

    def register(self, subject: str, schema: str) -> int:
        """Register a schema under a subject and return its id; the same schema has the same id again.

        SchemaError where it is refused, or where others have to register it and did not.
        """

    def schema(self, schema_id: int) -> str:
        """The schema with that id."""

    def close(self) -> None:
        """Release connections."""


def register_description(registry: Registry, subject: str, versions: list[str], description: Description, schema: str) -> int:
    """Register a stream's schema unless an earlier one of the subject (its `versions`, oldest first) forbids it.

    Raises DescriptionChanged if a key's dtype or row shape differs from any earlier version's.
    """
    for index, version in enumerate(versions, start=1):
        where = f"subject {subject}, version {index}"
        refuse_changes(description_of(version, where), description, where)
    return registry.register(subject, schema)


class LocalRegistry:
    """A registry in this process's memory."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._subjects: dict[str, list[str]] = {}

    def connect(self) -> None:
        pass

    def register(self, subject: str, schema: str) -> int:
        schema_id = self._ids.setdefault(schema, len(self._ids) + 1)
        versions = self._subjects.setdefault(subject, [])
        if schema not in versions:
            versions.append(schema)
        return schema_id

    def schema(self, schema_id: int) -> str:
        for schema, known in self._ids.items():
            if known == schema_id:
                return schema
        raise SchemaError(f"the local registry has no schema {schema_id}")

    def prepare(self, subject: str) -> list[str]:
        return list(self._subjects.get(subject, ()))

    def close(self) -> None:
        pass


class HttpRegistry:
    """A registry with Confluent's HTTP interface (Confluent's own, Apicurio's `/apis/ccompat/v7`, Karapace, ...).

    `settings` go to confluent-kafka's client untouched: basic.auth.user.info, bearer.auth.*, ssl.ca.location and so on.
    No call takes longer than three times `timeout_s` and a second of back-off. Picklable, and opened when first used. Without
    `auto_register` it is only read: others register schemas, and care for their compatibility.
    """

    def __init__(
        self, url: str, *, timeout_s: float = 2.5, settings: dict[str, object] | None = None, auto_register: bool = True
    ) -> None:
        self.url = url
        self._auto_register = auto_register
        self._settings = {"timeout": timeout_s, "max.retries": 2, **_completed(settings or {}), "url": url}
        self._timeout_s = timeout_s
        self._client: SchemaRegistryClient | None = None
        self._pid = 0

    def __repr__(self) -> str:
        return f"HttpRegistry({_without_password(self.url)!r})"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_client": None}

    def connect(self) -> None:
        self._opened()

    def register(self, subject: str, schema: str) -> int:
        from confluent_kafka.schema_registry import Schema

        if not self._auto_register:
            return self._registered(subject, schema)
        with self._translated(f"register {subject}") as client:
            return int(client.register_schema(subject, Schema(schema, "AVRO")))

    def _registered(self, subject: str, schema: str) -> int:
        """The id that others registered a schema under, in whatever layout and spelling."""
        for version in self._versions(subject):
            if version.schema_id is not None and same_schema(version.schema.schema_str or "null", schema):
                return int(version.schema_id)
        raise SchemaError(
            f"{self!r} does not have this schema under {subject}, and with auto.register.schemas=false somebody else registers it, "
            f"as AVRO: {schema}"
        )

    def schema(self, schema_id: int) -> str:
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        with self._translated(f"fetch schema {schema_id}") as client:
            try:
                found = client.get_schema(schema_id).schema_str
            except SchemaRegistryError as error:
                if error.http_status_code == NOT_FOUND_STATUS:
                    raise SchemaError(
                        f"{self!r} no longer has schema {schema_id}, which the records were written with, or it is another registry than "
                        "their teacher's: restore it, or have the teacher write them again"
                    ) from error
                raise
        if not found:
            raise SchemaError(f"{self!r} has no text for schema {schema_id}")
        return str(found)

    def prepare(self, subject: str) -> list[str]:
        if self._auto_register:
            with self._translated(f"set the compatibility of {subject}") as client:
                client.set_compatibility(subject_name=subject, level=COMPATIBILITY)
        return [str(version.schema.schema_str) for version in self._versions(subject)]

    def _versions(self, subject: str) -> list[RegisteredSchema]:
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        with self._translated(f"look up {subject}") as client:
            try:
                numbers = client.get_versions(subject)
            except SchemaRegistryError as error:
                if error.http_status_code == NOT_FOUND_STATUS:
                    return []
                raise
            return [client.get_version(subject, number) for number in numbers]

    def close(self) -> None:
        if self._client is not None:
            self._client.__exit__(None, None, None)  # type: ignore[no-untyped-call]  # the client has no close()
            self._client = None

    def _translated(self, action: str) -> _Translated:
        return _Translated(self, action)

    def _opened(self) -> SchemaRegistryClient:
        if self._client is None or self._pid != os.getpid():
            # A forked child must not share its parent's connections. What the client's own libraries think of each other's
            # versions is nothing our user can change.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                from confluent_kafka.schema_registry import SchemaRegistryClient
            self._pid = os.getpid()

            try:
                self._client = SchemaRegistryClient(self._settings)
            except (ValueError, TypeError) as error:
                raise SchemaError(f"the registry's settings are refused: {error}") from error
        return self._client


def _completed(settings: dict[str, object]) -> dict[str, object]:
    """The settings, with what the client wants to know for a bearer token in Confluent's cloud, and others have no use for."""
    if not any(name.startswith("bearer.auth.") for name in settings):
        return settings
    source = {"bearer.auth.credentials.source": "STATIC_TOKEN"} if "bearer.auth.token" in settings else {}
    return {**source, "bearer.auth.logical.cluster": "none", "bearer.auth.identity.pool.id": "none", **settings}


class _Translated:
    """Gives the client and turns its errors into ours."""

    def __init__(self, registry: HttpRegistry, action: str) -> None:
        self._registry = registry
        self._action = action

    def __enter__(self) -> SchemaRegistryClient:
        return self._registry._opened()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        if isinstance(error, SchemaRegistryError) and error.http_status_code in _DENIED_STATUS:
            raise AccessDenied(
                f"{self._registry!r} does not let this client {self._action} (HTTP {error.http_status_code}): look at "
                "schema.registry.basic.auth.user.info or schema.registry.bearer.auth.* (docs/security.md)"
            ) from error
        if isinstance(error, SchemaRegistryError):
            raise SchemaError(
                f"{self._registry!r} refused to {self._action}: {error.error_message} (HTTP {error.http_status_code})"
            ) from error
        # The client lets its HTTP library's errors through, and which library that is has changed before.
        if isinstance(error, Exception) and "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise AccessDenied(
                f"{self._registry!r} has a certificate that this client does not trust ({error}): schema.registry.ssl.ca.location names whom to trust"
            ) from error
        if isinstance(error, Exception) and not isinstance(error, TutelageError):
            what = "did not answer in time" if "Timeout" in type(error).__name__ else "cannot be reached"
            raise RegistryUnavailable(
                f"{self._registry!r} {what} to {self._action} ({error or type(error).__name__}); is it running, and is this its address?"
            ) from error


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
