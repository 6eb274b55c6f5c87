"""Schemas -> a Confluent-compatible registry over HTTP, and back.

Schemas are registered with FULL_TRANSITIVE compatibility. Every call has a deadline. Errors are
translated and show no secrets. Knows nothing of records or of what a schema describes.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from tutelage.schemas.arguments import check_flag, check_options, check_seconds
from tutelage.schemas.errors import (
    ConfigurationError,
    RegistryUnavailable,
    SchemaError,
    TutelageError,
)
from tutelage.schemas.knowledge_schema import is_same_schema
from tutelage.transport.addresses import origin_of
from tutelage.transport.background import within
from tutelage.transport.exposure import registry_exposures, warn_once
from tutelage.transport.hiding import hiding, secrets_in
from tutelage.transport.proxies import proxy_of, proxy_secrets
from tutelage.transport.registry_answers import NotFound, Request, limit_size
from tutelage.transport.registry_settings import ATTEMPTS, call_timeout_s, completed_settings
from tutelage.transport.registry_url import parsed_url
from tutelage.transport.secretless import Secretless, public_settings

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import RegisteredSchema, SchemaRegistryClient

Answer = TypeVar("Answer")

COMPATIBILITY = "FULL_TRANSITIVE"
#: Reading all versions of a subject may take as long as this many calls: 60 s by default.
LOOKUP_CALLS = 7

# Of one subject. Each version costs a request.
_MOST_VERSIONS = 1000
_CONFLICT_STATUS = 409


class HttpRegistry(Secretless):
    """A registry with Confluent's HTTP interface: Confluent's own, Apicurio's and others.

    The connection is opened by the first call. A user or a query in the URL is sent with each
    request and is never shown; `url` is what may be shown.

    Guarantee: for each of its addresses a request takes no longer than three times `timeout_s` and
    a second, however slowly a server answers, and reads no more than 16 MiB. `prepare` and
    `register` take no longer than seven such requests. Pickles hold no secrets.

    Args:
        url: The registry's URL; separate several with commas.
        timeout_s: How long one attempt at a request may take, in seconds.
        settings: Settings of confluent-kafka's registry client, passed on unchanged:
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
        given = completed_settings(check_options("settings", settings))
        if self._parts.user_info:
            if "basic.auth.user.info" in given:
                raise ConfigurationError(
                    f"{self._name}: its URL and basic.auth.user.info both name a user; "
                    "give one of them"
                )
            given["basic.auth.user.info"] = self._parts.user_info
        self._auto_register = check_flag("auto_register", auto_register)
        self._settings = {
            "timeout": check_seconds("timeout_s", timeout_s),
            "max.retries": ATTEMPTS - 1,
            **given,
            "url": self.url,
        }
        self._call_timeout_s = call_timeout_s(self._settings, len(self.url.split(",")))
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
        self._open_client()

    def register(self, subject: str, schema: str) -> int:
        """As `Registry.register`; without `auto_register`, look for the schema there."""
        from confluent_kafka.schema_registry import Schema

        if not self._auto_register:
            return self._registered_id(subject, schema)
        return int(
            self._ask(
                f"register {subject}",
                lambda client: client.register_schema(subject, Schema(schema, "AVRO")),
            )
        )

    def _registered_id(self, subject: str, schema: str) -> int:
        """Find a schema that others registered, whatever its layout and spelling."""
        for version in self._versions(subject, self._lookup_deadline()):
            if version.schema_id is not None and is_same_schema(
                version.schema.schema_str or "null", schema
            ):
                return int(version.schema_id)
        raise SchemaError(
            f"{self._name} does not have this schema under {subject}, and with "
            "auto.register.schemas=false it must be registered by somebody else, "
            f"as AVRO: {schema}"
        )

    def schema(self, schema_id: int) -> str:
        """As `Registry.schema`."""
        try:
            found = self._ask(
                f"fetch schema {schema_id}", lambda client: client.get_schema(schema_id)
            ).schema_str
        except NotFound as error:
            raise SchemaError(
                f"{self._name} no longer has schema {schema_id}, which the records were written "
                "with, or the teacher used another registry: restore the schema, or have the "
                "teacher write the records again"
            ) from error
        if not found:
            raise SchemaError(f"{self._name} has no text for schema {schema_id}")
        return str(found)

    def prepare(self, subject: str) -> list[str]:
        """As `Registry.prepare`; without `auto_register`, set no compatibility."""
        deadline = self._lookup_deadline()
        if self._auto_register:
            self._ask(
                f"set the compatibility of {subject}",
                partial(_set_compatibility, subject=subject),
            )
        return [str(version.schema.schema_str) for version in self._versions(subject, deadline)]

    def _lookup_deadline(self) -> float:
        return time.monotonic() + LOOKUP_CALLS * self._call_timeout_s

    def _versions(self, subject: str, deadline: float) -> list[RegisteredSchema]:
        """All versions of a subject, oldest first; RegistryUnavailable at the deadline."""
        action = f"look up {subject}"
        try:
            numbers = self._ask(
                action,
                lambda client: client.get_versions(subject),
                within_s=deadline - time.monotonic(),
            )
        except NotFound:
            return []
        if len(numbers) > _MOST_VERSIONS:
            raise SchemaError(
                f"{self._name} lists {len(numbers):,} versions of {subject}; at most "
                f"{_MOST_VERSIONS:,} are read: delete old ones there, or use another topic"
            )
        found: list[RegisteredSchema] = []
        for number in numbers:
            left_s = deadline - time.monotonic()
            try:
                found.append(
                    self._ask(
                        action, partial(_version, subject=subject, number=number), within_s=left_s
                    )
                )
            except RegistryUnavailable as error:
                if left_s > self._call_timeout_s or not isinstance(error.__cause__, TimeoutError):
                    raise
                raise RegistryUnavailable(
                    f"{self._name} answers too slowly: {len(found):,} of {len(numbers):,} versions "
                    f"of {subject} were read within {LOOKUP_CALLS * self._call_timeout_s:.0f} s; "
                    "delete old ones there, use another topic, or raise schema.registry.timeout "
                    "(timeout_s of HttpRegistry)"
                ) from error
        return found

    def close(self) -> None:
        """As `Registry.close`. A later call opens the connection again."""
        client, self._client = self._client, None
        if client is not None:
            # The client has no close().
            client.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def _ask(
        self,
        action: str,
        question: Callable[[SchemaRegistryClient], Answer],
        *,
        within_s: float = float("inf"),
    ) -> Answer:
        """The client's answer to one request, within a call's timeout and `within_s`.

        Raises:
            NotFound: The registry has no such subject or schema.
            TutelageError: The request failed; the subclass says how.
        """
        client = self._open_client()
        timeout_s = min(self._call_timeout_s, within_s)
        try:
            if timeout_s <= 0:
                raise TimeoutError
            return within(
                timeout_s,
                lambda: question(client),
                name="tutelage-registry",
                give_up=self.close,
            )
        except TutelageError:
            raise
        except Exception as error:
            request = Request(name=self._name, action=action, proxy=self._proxy_note())
            raise request.error_of(error) from hiding.cause(error)

    def _open_client(self) -> SchemaRegistryClient:
        if self._client is None or self._pid != os.getpid():
            # A forked child must not share its parent's connections.
            self._pid, self._client = os.getpid(), self._new_client()
        return self._client

    def _new_client(self) -> SchemaRegistryClient:
        self._check_secrets_present()
        # Users cannot act on deprecation warnings between the client's own libraries.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            from confluent_kafka.schema_registry import SchemaRegistryClient
        # Here, because a copy may run in another process than the one that made this object.
        proxy = self._settings.get("proxy")
        hiding.add((*self._parts.secrets, *proxy_secrets(proxy), *secrets_in(self._settings)))
        warn_once(registry_exposures(self._parts, self._settings, proxy_of(self.url, proxy)))
        try:
            client = SchemaRegistryClient(self._settings)
        # Missing files, proxies that need another library, and whatever else settings may name.
        except Exception as error:
            raise SchemaError(
                "the registry's client refuses its settings: "
                f"{hiding.hidden(str(error))}{self._proxy_note()}"
            ) from hiding.cause(error)
        # The client has no settings for these.
        session = client._rest_client.session
        session.headers["Accept-Encoding"] = "identity"
        session.event_hooks = {
            "request": [self._add_query],
            "response": [lambda response: limit_size(response, self._name)],
        }
        return client

    def _add_query(self, request: Any) -> None:
        """Append the URL's query to the request's own."""
        own, ours = request.url.query, self._parts.query_of(str(request.url.copy_with(query=None)))
        if ours:
            request.url = request.url.copy_with(
                query=b"&".join(part for part in (own, ours.encode()) if part)
            )

    def _proxy_note(self) -> str:
        """What an error adds about the proxy in use; empty without one."""
        found = proxy_of(self.url, self._settings.get("proxy"))
        if found is None:
            return ""
        host, by = found
        without = (
            f"NO_PROXY={urlsplit(self.url).hostname} would bypass it"
            if by.endswith("_PROXY")
            else "is it the right one?"
        )
        return f". It is asked through the proxy {host}, which {by} names; {without}"


def _set_compatibility(client: SchemaRegistryClient, *, subject: str) -> object:
    """Set a subject's compatibility, also while another writer does it."""
    from confluent_kafka.schema_registry import SchemaRegistryError

    try:
        return client.set_compatibility(subject_name=subject, level=COMPATIBILITY)
    except SchemaRegistryError as error:
        if error.http_status_code != _CONFLICT_STATUS:
            raise
        # The other one's is there now (Apicurio), and is changed to the same.
        return client.set_compatibility(subject_name=subject, level=COMPATIBILITY)


def _version(client: SchemaRegistryClient, *, subject: str, number: int) -> RegisteredSchema:
    return client.get_version(subject, number)
