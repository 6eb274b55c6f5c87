"""A registry's URL -> the part that may be shown, and the secrets that each request carries.

A user and password, or a query such as `?apikey=...`, grant access: they are sent with requests and
appear nowhere else. Sends nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from tutelage.schemas.errors import ConfigurationError
from tutelage.transport.addresses import origin_of
from tutelage.transport.hiding import user_info_secrets

_SCHEMES = ("http", "https", "mock")
# Commas separate several URLs; a query may hold commas too.
_BETWEEN_URLS = re.compile(r",\s*(?=[a-z]+://)")


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistryUrl:
    """The addresses of a registry, which may have several instances.

    Attributes:
        shown: The URL as errors and `repr` show it, without user and query.
        user_info: `USER:PASSWORD`; empty if there is none.
        queries: Base URL -> the query to send with each request under it.
        secrets: What must not be shown.
    """

    shown: str
    user_info: str = field(repr=False)
    queries: dict[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)

    def public(self) -> RegistryUrl:
        """Return a copy without user, queries and secrets."""
        return RegistryUrl(shown=self.shown, user_info="", queries={}, secrets=())

    def query_of(self, url: str) -> str:
        """Return the query to send with a request for this URL; empty if there is none."""
        return next(
            (
                query
                for base, query in self.queries.items()
                if url == base or url.startswith(base + "/")
            ),
            "",
        )


def parsed_url(given: object) -> RegistryUrl:
    """Parse a registry's URL, or several separated by commas.

    Raises:
        ConfigurationError: It is not valid. The error shows nothing that may be secret.
    """
    name = origin_of(given, "the registry's URL")
    if not isinstance(given, str):
        raise ConfigurationError(
            f"{name} is of type {type(given).__name__}; it must be a text such as http://HOST:PORT"
        )
    urls = [url.strip() for url in _BETWEEN_URLS.split(given.strip())]
    parts = [_parsed(url, name) for url in urls]
    users = {user for _, user, _ in parts if user}
    if len(users) > 1:
        raise ConfigurationError(
            f"{name} names several users; all its addresses must have the same"
        )
    user_info = users.pop() if users else ""
    secrets = [secret for base, _, query in parts for secret in _secrets_of_query(query)]
    if user_info:
        secrets += user_info_secrets(user_info)
    return RegistryUrl(
        shown=",".join(base for base, _, _ in parts),
        user_info=user_info,
        queries={base: query for base, _, query in parts if query},
        secrets=tuple(secret for secret in secrets if secret),
    )


def _parsed(url: str, name: str) -> tuple[str, str, str]:
    """One URL's base, user info and query."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if (
        parts.scheme not in _SCHEMES
        or not host
        or any(character.isspace() for character in url)
        or port == 0
    ):
        raise ConfigurationError(
            f"{name} is not a URL such as http://HOST:PORT/PATH (it is not shown, because it may "
            "hold a secret); "
            "characters such as / ? # @ in a user or password must be written as %2F %3F %23 %40"
        )
    if "@" in parts.path or parts.fragment:
        raise ConfigurationError(
            f"{name} has {'an @ in its path' if '@' in parts.path else 'a fragment behind #'}; if "
            "that belongs to a user or password, "
            "write / ? # @ in those as %2F %3F %23 %40"
        )
    address = parts.netloc.rpartition("@")[2]
    user_info = ""
    if parts.username or parts.password:
        user_info = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return f"{parts.scheme}://{address}{parts.path}".rstrip("/"), user_info, parts.query


def _secrets_of_query(query: str) -> list[str]:
    """The query, each part of it and each value: a server may quote any of them."""
    pairs = [pair for pair in re.split("[&;]", query) if pair]
    return [
        query,
        *pairs,
        *(value for _, equals, value in (pair.partition("=") for pair in pairs) if equals),
    ]
