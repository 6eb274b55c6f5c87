"""Schema registries: a Confluent-compatible one over HTTP, and one in memory for tests and single processes.

Every call has a deadline. Schemas are registered under `<topic>-value` with FULL_TRANSITIVE
compatibility. A changed dtype or row shape, which a registry cannot see, is refused here.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

from tutelage.schemas.arguments import check_flag, check_options, check_seconds
from tutelage.schemas.errors import ConfigurationError, SchemaError, TutelageError
from tutelage.schemas.knowledge_schema import description_from_schema, is_same_schema
from tutelage.schemas.record import Description, check_compatible
from tutelage.transport.addresses import origin_of, registry_address
from tutelage.transport.background import within
from tutelage.transport.exposure import registry_exposures, warn_once
from tutelage.transport.hiding import hiding, secrets_in
from tutelage.transport.proxies import proxy_of, proxy_secrets
from tutelage.transport.registry_answers import Asked, NotThere, bound
from tutelage.transport.registry_url import parsed_url
from tutelage.transport.secretless import Secretless, public_settings

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import RegisteredSchema, SchemaRegistryClient

Answer = TypeVar("Answer")

COMPATIBILITY = "FULL_TRANSITIVE"
# Of one subject; each is asked for by a request of its own.
_MOST_VERSIONS = 1000
_NUMBERS = frozenset(
    (
        "timeout",
        "max.retries",
        "retries.wait.ms",
        "retries.max.wait.ms",
        "cache.capacity",
        "cache.latest.ttl.sec",
    )
)
# Tries of a request, at most, and the pauses between them.
_TRIES, _BACK_OFF_S = 3, 1.0


class Registry(Protocol):
    """What a sink or source needs of a registry: write one of your own with these methods."""

    def connect(self) -> None:
        """Load the client, so that the first call is quick. Asks nothing yet."""

    def prepare(self, subject: str) -> list[str]:
        """Return a subject's schemas; first set its compatibility, unless others do that.

        Args:
            subject: The subject, such as `TOPIC-value`.

        Returns:
            The text of every schema it has, the oldest first.

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
            SchemaError: It is refused, or others have to register it and did not.
            AccessDenied: The registry does not let this client in.
            RegistryUnavailable: The registry did not answer.
        """

    def schema(self, schema_id: int) -> str:
        """Return the schema of an id.

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
    """A registry as it is, or the one at a URL; without either, the one that the environment names, or this machine's.

    Raises:
        ConfigurationError: It is neither, or the URL is none.
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
            f"registry is of type {type(given).__name__}, which has no {missing[0]}(); it must be a URL or a registry such as HttpRegistry"
        )
    return given


def register_description(
    registry: Registry, subject: str, versions: list[str], description: Description, schema: str
) -> int:
    """Register a stream's schema unless an earlier one of the subject (its `versions`, oldest first) forbids it.

    Raises DescriptionChanged if a key's dtype or row shape differs from any earlier version's.
    """
    for index, version in enumerate(versions, start=1):
        where = f"subject {subject}, version {index}"
        check_compatible(description_from_schema(version, where), description, where)
    return registry.register(subject, schema)


class LocalRegistry:
    """A registry in this process's memory, for tests and programs of one process.

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


class HttpRegistry(Secretless):
    """A registry with Confluent's HTTP interface: Confluent's own, Apicurio's and others.

    The connection is opened when it is first used. A user or a query in the URL goes along with
    each request and is never shown; `url` is what may be shown.

    Guarantee: for each of its addresses a call takes no longer than three times `timeout_s` and a
    second, however slowly something answers, and reads no more than 16 MiB. Pickles hold no
    secrets.

    Args:
        url: The registry's URL; several with commas between.
        timeout_s: How long one try of a request may take, in seconds.
        settings: Settings of confluent-kafka's registry client, passed on as they are:
            `basic.auth.user.info`, `bearer.auth.token`, `ssl.ca.location` and others.
        auto_register: Whether to register schemas and set their compatibility. With False the
            registry is only read: others register schemas.

    Raises:
        ConfigurationError: The URL or an argument has the wrong type or value.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 2.5,
        settings: Mapping[str, object] | None = None,
        auto_register: bool = True,
    ) -> None:
        self._parts = parsed_url(url)
        self.url = self._parts.shown
        origin = origin_of(url, "")
        self._name = f"{self!r} ({origin})" if origin else repr(self)
        given = _completed(check_options("settings", settings))
        if self._parts.user_info:
            if "basic.auth.user.info" in given:
                raise ConfigurationError(
                    f"{self._name}: its URL and basic.auth.user.info both name a user; give one of them"
                )
            given["basic.auth.user.info"] = self._parts.user_info
        self._auto_register = check_flag("auto_register", auto_register)
        self._settings = {
            "timeout": check_seconds("timeout_s", timeout_s),
            "max.retries": _TRIES - 1,
            **given,
            "url": self.url,
        }
        self._deadline_s = _deadline_s(self._settings, len(self.url.split(",")))
        self._client: SchemaRegistryClient | None = None
        self._pid = 0

    def __repr__(self) -> str:
        return f"HttpRegistry({self.url!r})"

    def _copied_state(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}

    def _public_state(self, state: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        settings, withheld = public_settings(self._settings)
        if self._parts.queries:
            withheld.append("the query of its URL")
        return {**state, "_settings": settings, "_parts": self._parts.public()}, withheld

    def connect(self) -> None:
        """As `Registry.connect`."""
        self._opened()

    def register(self, subject: str, schema: str) -> int:
        """As `Registry.register`; without `auto_register`, look for the schema there."""
        from confluent_kafka.schema_registry import Schema

        if not self._auto_register:
            return self._registered(subject, schema)
        return int(
            self._ask(
                f"register {subject}",
                lambda client: client.register_schema(subject, Schema(schema, "AVRO")),
            )
        )

    def _registered(self, subject: str, schema: str) -> int:
        """The id that others registered a schema under, in whatever layout and spelling."""
        for version in self._versions(subject):
            if version.schema_id is not None and is_same_schema(
                version.schema.schema_str or "null", schema
            ):
                return int(version.schema_id)
        raise SchemaError(
            f"{self._name} does not have this schema under {subject}, and with auto.register.schemas=false somebody else registers it, "
            f"as AVRO: {schema}"
        )

    def schema(self, schema_id: int) -> str:
        """As `Registry.schema`."""
        try:
            found = self._ask(
                f"fetch schema {schema_id}", lambda client: client.get_schema(schema_id)
            ).schema_str
        except NotThere as error:
            raise SchemaError(
                f"{self._name} no longer has schema {schema_id}, which the records were written with, or it is another registry than "
                "their teacher's: restore it, or have the teacher write them again"
            ) from error
        if not found:
            raise SchemaError(f"{self._name} has no text for schema {schema_id}")
        return str(found)

    def prepare(self, subject: str) -> list[str]:
        """As `Registry.prepare`; without `auto_register`, set no compatibility."""
        if self._auto_register:
            self._ask(
                f"set the compatibility of {subject}",
                lambda client: client.set_compatibility(subject_name=subject, level=COMPATIBILITY),
            )
        return [str(version.schema.schema_str) for version in self._versions(subject)]

    def _versions(self, subject: str) -> list[RegisteredSchema]:
        action = f"look up {subject}"
        try:
            numbers = self._ask(action, lambda client: client.get_versions(subject))
        except NotThere:
            return []
        if len(numbers) > _MOST_VERSIONS:
            raise SchemaError(
                f"{self._name} lists {len(numbers):,} versions of {subject}; more than {_MOST_VERSIONS:,} are not looked "
                "through: delete old ones there, or use another topic"
            )
        return [
            self._ask(action, partial(_version, subject=subject, number=number))
            for number in numbers
        ]

    def close(self) -> None:
        """As `Registry.close`. A later call opens the connection again."""
        client, self._client = self._client, None
        if client is not None:
            client.__exit__(None, None, None)  # type: ignore[no-untyped-call]  # the client has no close()

    def _ask(self, action: str, question: Callable[[SchemaRegistryClient], Answer]) -> Answer:
        """The client's answer to one question, within the registry's deadline.

        Raises:
            TutelageError: Of the kind that the failure has; NotThere where the registry has no such thing.
        """
        client = self._opened()
        try:
            return within(
                self._deadline_s,
                lambda: question(client),
                name="tutelage-registry",
                give_up=self.close,
            )
        except TutelageError:
            raise
        except Exception as error:
            asked = Asked(name=self._name, action=action, proxy=self._by_proxy())
            raise asked.failed(error) from hiding.cause(error)

    def _opened(self) -> SchemaRegistryClient:
        if self._client is None or self._pid != os.getpid():
            # A forked child must not share its parent's connections.
            self._pid, self._client = os.getpid(), self._new_client()
        return self._client

    def _new_client(self) -> SchemaRegistryClient:
        self._refuse_withheld()
        # What the client's own libraries think of each other's versions is nothing our user can change.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            from confluent_kafka.schema_registry import SchemaRegistryClient
        # In this process, which may be another than the one this object was made in.
        proxy = self._settings.get("proxy")
        hiding.add((*self._parts.secrets, *proxy_secrets(proxy), *secrets_in(self._settings)))
        warn_once(registry_exposures(self._parts, self._settings, proxy_of(self.url, proxy)))
        try:
            client = SchemaRegistryClient(self._settings)
        # Files that are not there, proxies of a kind that takes another library, and what else settings may name.
        except Exception as error:
            raise SchemaError(
                f"the registry's settings are refused: {hiding.hidden(str(error))}{self._by_proxy()}"
            ) from hiding.cause(error)
        # The client has no settings for these.
        session = client._rest_client.session
        session.headers["Accept-Encoding"] = "identity"
        session.event_hooks = {
            "request": [self._add_query],
            "response": [lambda response: bound(response, self._name)],
        }
        return client

    def _add_query(self, request: Any) -> None:
        """Put the URL's query behind the one that a request has by itself."""
        own, ours = request.url.query, self._parts.query_of(str(request.url.copy_with(query=None)))
        if ours:
            request.url = request.url.copy_with(
                query=b"&".join(part for part in (own, ours.encode()) if part)
            )

    def _by_proxy(self) -> str:
        """What there is to say about a proxy on the way; empty without one."""
        found = proxy_of(self.url, self._settings.get("proxy"))
        if found is None:
            return ""
        host, by = found
        without = (
            f"NO_PROXY={urlsplit(self.url).hostname} would go without it"
            if by.endswith("_PROXY")
            else "is it the right one?"
        )
        return f". It is asked through the proxy {host}, which {by} names; {without}"


def _version(client: SchemaRegistryClient, *, subject: str, number: int) -> RegisteredSchema:
    return client.get_version(subject, number)


def _completed(settings: dict[str, object]) -> dict[str, object]:
    """The settings with numbers as numbers, which a properties file has as text, and with what the client requires of a bearer token.

    Logical cluster and identity pool are Confluent Cloud's; other registries ignore them.
    """
    for name in _NUMBERS & settings.keys():
        try:
            settings[name] = float(str(settings[name]))
        except ValueError:
            raise ConfigurationError(
                f"schema.registry.{name} is {settings[name]!r}; it must be a number"
            ) from None
    if not any(name.startswith("bearer.auth.") for name in settings):
        return settings
    source = (
        {"bearer.auth.credentials.source": "STATIC_TOKEN"}
        if "bearer.auth.token" in settings
        else {}
    )
    return {
        **source,
        "bearer.auth.logical.cluster": "none",
        "bearer.auth.identity.pool.id": "none",
        **settings,
    }


def _deadline_s(settings: Mapping[str, object], addresses: int) -> float:
    """Seconds for one call: for each address every try's timeout, and the pauses between them."""
    tries = float(str(settings["max.retries"])) + 1
    return addresses * (tries * float(str(settings["timeout"])) + _BACK_OFF_S)
