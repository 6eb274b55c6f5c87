"""Schema id <-> schema: a Confluent-compatible registry over HTTP, and one in memory for tests and single processes.

Every call has a timeout. Schemas are registered under `<topic>-value` with FULL_TRANSITIVE compatibility, by us or by those who may; what a registry
cannot see, a changed dtype or row shape, is refused here.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from tutelage.schemas.addresses import origin_of, registry_address
from tutelage.schemas.arguments import flag, option_mapping, seconds
from tutelage.schemas.errors import AccessDenied, ConfigurationError, RegistryUnavailable, SchemaError, TutelageError
from tutelage.schemas.hiding import hiding
from tutelage.schemas.knowledge_schema import description_of, same_schema
from tutelage.schemas.proxies import proxy_of, proxy_secrets
from tutelage.schemas.record import Description, refuse_changes
from tutelage.schemas.registry_url import parsed_url

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import RegisteredSchema, SchemaRegistryClient
    from confluent_kafka.schema_registry.error import SchemaRegistryError

log = logging.getLogger(__name__)

COMPATIBILITY = "FULL_TRANSITIVE"
NOT_FOUND_STATUS = 404
_DENIED_STATUS = (401, 403)
_PROXY_DENIED_STATUS = 407
_FAILED_STATUS = 500
# Settings that let somebody in, or hold what does.
_SECRET = re.compile(r"user\.info|password|secret|auth\.token$")
# Of an answer that is none: a page of HTML may be long.
_SHOWN = 200


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


def checked_registry(given: Registry | str | None) -> Registry:
    """A registry as it is, or the one at a URL; without either, the one that the environment names, or this machine's.

    Raises:
        ConfigurationError: It is neither, or the URL is none.
    """
    if given is None or isinstance(given, str):
        return HttpRegistry(registry_address(given))
    missing = [
        name for name in ("connect", "prepare", "register", "schema", "close") if not callable(getattr(given, name, None))
    ]
    if missing:
        raise ConfigurationError(
            f"registry is of type {type(given).__name__}, which has no {missing[0]}(); it must be a URL or a registry such as HttpRegistry"
        )
    return given


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
    `auto_register` it is only read: others register schemas, and care for their compatibility. A user or a query in the URL goes along
    with each request and is never shown; `url` is what may be shown.
    """

    def __init__(
        self, url: str, *, timeout_s: float = 2.5, settings: Mapping[str, object] | None = None, auto_register: bool = True
    ) -> None:
        self._parts = parsed_url(url)
        self.url = self._parts.shown
        origin = origin_of(url, "")
        self._name = f"{self!r} ({origin})" if origin else repr(self)
        given = _completed(option_mapping("settings", settings))
        if self._parts.user_info:
            if "basic.auth.user.info" in given:
                raise ConfigurationError(f"{self._name}: its URL and basic.auth.user.info both name a user; give one of them")
            given["basic.auth.user.info"] = self._parts.user_info
        self._auto_register = flag("auto_register", auto_register)
        self._settings = {"timeout": seconds("timeout_s", timeout_s), "max.retries": 2, **given, "url": self.url}
        self._client: SchemaRegistryClient | None = None
        self._pid = 0

    def __repr__(self) -> str:
        return f"HttpRegistry({self.url!r})"

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
            f"{self._name} does not have this schema under {subject}, and with auto.register.schemas=false somebody else registers it, "
            f"as AVRO: {schema}"
        )

    def schema(self, schema_id: int) -> str:
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        with self._translated(f"fetch schema {schema_id}") as client:
            try:
                found = client.get_schema(schema_id).schema_str
            except SchemaRegistryError as error:
                if _is_not_found(error):
                    raise SchemaError(
                        f"{self._name} no longer has schema {schema_id}, which the records were written with, or it is another registry than "
                        "their teacher's: restore it, or have the teacher write them again"
                    ) from hiding.cause(error)
                raise
        if not found:
            raise SchemaError(f"{self._name} has no text for schema {schema_id}")
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
                if _is_not_found(error):
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

            # In this process, which may be another than the one it was made in.
            proxy, told = (
                self._settings.get("proxy"),
                [str(self._settings[name]) for name in self._settings if _SECRET.search(name)],
            )
            hiding.add((*self._parts.secrets, *proxy_secrets(proxy), *told))
            try:
                client = SchemaRegistryClient(self._settings)
            # Files that are not there, proxies of a kind that takes another library, and what else settings may name.
            except Exception as error:
                raise SchemaError(
                    f"the registry's settings are refused: {hiding.hidden(str(error))}{self._by_proxy()}"
                ) from hiding.cause(error)
            if self._parts.queries:
                # The client has no setting for a query that goes along with each request.
                client._rest_client.session.event_hooks = {"request": [self._add_query]}
            self._client = client
        return self._client

    def _add_query(self, request: Any) -> None:
        """Put the URL's query behind the one that a request has by itself."""
        own, ours = request.url.query, self._parts.query_of(str(request.url.copy_with(query=None)))
        if ours:
            request.url = request.url.copy_with(query=b"&".join(part for part in (own, ours.encode()) if part))

    def _by_proxy(self) -> str:
        """What there is to say about a proxy on the way; empty without one."""
        found = proxy_of(self.url, self._settings.get("proxy"))
        if found is None:
            return ""
        host, by = found
        without = (
            f"NO_PROXY={urlsplit(self.url).hostname} would go without it" if by.endswith("_PROXY") else "is it the right one?"
        )
        return f". It is asked through the proxy {host}, which {by} names; {without}"


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
        if isinstance(error, Exception) and not isinstance(error, TutelageError):
            raise self._ours(error) from hiding.cause(error)

    def _ours(self, error: Exception) -> TutelageError:
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        if isinstance(error, SchemaRegistryError):
            return self._answered(error)
        name, action, said = self._registry._name, self._action, hiding.hidden(str(error) or type(error).__name__)
        proxy = self._registry._by_proxy()
        # The client lets its HTTP library's errors through, and which library that is has changed before.
        if "CERTIFICATE_VERIFY_FAILED" in said:
            return AccessDenied(
                f"{name} has a certificate that this client does not trust ({said}): schema.registry.ssl.ca.location names whom to trust{proxy}"
            )
        if isinstance(error, (ValueError, KeyError, TypeError, AttributeError)) or "Decoding" in type(error).__name__:
            # It is no answer that the client could read: a page of HTML, say.
            return RegistryUnavailable(
                f"{name} was asked to {action}, and what answered is no registry ({said}); is this its address, with its path?{proxy}"
            )
        what = "did not answer in time" if "Timeout" in type(error).__name__ else "cannot be reached"
        return RegistryUnavailable(f"{name} {what} to {action} ({said}); is it running, and is this its address?{proxy}")

    def _answered(self, error: SchemaRegistryError) -> TutelageError:
        """The error for an answer that is none of success."""
        name, action, status = self._registry._name, self._action, error.http_status_code
        said, proxy = hiding.hidden(str(error.error_message)), self._registry._by_proxy()
        if status == _PROXY_DENIED_STATUS:
            return AccessDenied(f"a proxy on the way to {name} asks for a user and password (HTTP {status}){proxy}")
        if status in _DENIED_STATUS:
            return AccessDenied(
                f"{name} does not let this client {action} (HTTP {status}): look at "
                f"schema.registry.basic.auth.user.info or schema.registry.bearer.auth.* (docs/security.md){proxy}"
            )
        if status >= _FAILED_STATUS:
            return RegistryUnavailable(f"{name} failed to {action}: {said} (HTTP {status}){proxy}")
        if not _is_registrys(error):
            return RegistryUnavailable(
                f"{name} was asked to {action}, and what answered is no registry (HTTP {status}: {said[:_SHOWN]}); is this its address, "
                f"with its path?{proxy}"
            )
        return SchemaError(f"{name} refused to {action}: {said} (HTTP {status})")


def _is_registrys(error: SchemaRegistryError) -> bool:
    """Whether an answer has the form that registries give theirs: its own code of the error in JSON."""
    return isinstance(error.error_code, int) and error.error_code > 0


def _is_not_found(error: SchemaRegistryError) -> bool:
    return error.http_status_code == NOT_FOUND_STATUS and _is_registrys(error)
