"""Addresses of Kafka and the registry: the given one, else the environment's, else the default.

The only place that knows these environment variables. An address holds its origin, so that an error
can say where to change it. Opens no connection.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from tutelage.schemas.errors import ConfigurationError

BOOTSTRAP_VARIABLE = "TUTELAGE_BOOTSTRAP_SERVER"
REGISTRY_VARIABLE = "TUTELAGE_REGISTRY"
FILE_VARIABLE = "TUTELAGE_CONFIG"

DEFAULT_BOOTSTRAP = "localhost:9092"
# The registry that `tutelage stack up` starts. Confluent's own would be http://localhost:8081.
DEFAULT_REGISTRY = "http://localhost:8081/apis/ccompat/v7"

_BOOTSTRAP_ARGUMENT, _REGISTRY_ARGUMENT = "argument bootstrap_servers", "argument registry"
_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_SERVER = re.compile(
    r"(?:(?P<protocol>[^:/]*)://)?(?P<host>\[[^\s\[\]/@]+\]|[^\s:/@\[\]]*)(?::(?P<port>[^:]*))?"
)
_LARGEST_PORT = 65535


class Address(str):
    """An address and its origin: an argument, flag, file, environment variable or the default."""

    origin: str

    def __new__(cls, value: str, origin: str) -> Address:
        made = super().__new__(cls, value)
        made.origin = origin
        return made

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]  # str has no origin
        return str(self), self.origin

    @property
    def with_origin(self) -> str:
        """The address and its origin, for errors."""
        return f"{self} ({self.origin})"


def bootstrap_address(given: str | Sequence[str] | None) -> Address:
    """Return the bootstrap servers, separated by commas.

    Args:
        given: `HOST:PORT`, several of them separated by commas, or a list or tuple of such. With
            None, the addresses come from the environment, or are the default.

    Raises:
        ConfigurationError: It has another type or is empty, or an entry has no host or an invalid
            port.
    """
    if given is None:
        given = _from_environment(BOOTSTRAP_VARIABLE) or _default(
            DEFAULT_BOOTSTRAP, "bootstrap_servers", BOOTSTRAP_VARIABLE
        )
    origin = origin_of(given, _BOOTSTRAP_ARGUMENT)
    if not isinstance(given, (str, list, tuple)):
        raise ConfigurationError(
            f"{origin} is of type {type(given).__name__}; it must be a text HOST:PORT, or a list "
            "of them"
        )
    servers: list[str] = []
    for entry in [given] if isinstance(given, str) else given:
        if not isinstance(entry, str):
            raise ConfigurationError(
                f"{origin} holds a {type(entry).__name__}; each entry must be a text HOST:PORT"
            )
        # Both Kafka clients skip empty entries between commas.
        named = [server for server in map(str.strip, entry.split(",")) if server]
        if not named:
            raise ConfigurationError(f"{origin} has an empty entry; it must be HOST:PORT")
        servers += [_checked_server(server, origin) for server in named]
    if not servers:
        raise ConfigurationError(f"{origin} names no broker; it must hold at least one HOST:PORT")
    return Address(",".join(servers), origin)


def registry_address(given: str | None) -> Address:
    """Return the registry's URL: the given one, else the environment's, else the default.

    It may hold secrets: never show it.
    """
    if given is None:
        return _from_environment(REGISTRY_VARIABLE) or _default(
            DEFAULT_REGISTRY, "registry", REGISTRY_VARIABLE
        )
    return Address(given, origin_of(given, _REGISTRY_ARGUMENT))


def named_by(value: str | None, variable: str, otherwise: str) -> Address | None:
    """Return a flag's value as an address; None if it is empty.

    Args:
        value: The value.
        variable: The flag's environment variable, which is the origin if it has this value.
        otherwise: The origin if it has not.
    """
    if not value:
        return None
    return Address(
        value,
        f"environment variable {variable}" if os.environ.get(variable) == value else otherwise,
    )


def origin_of(given: object, otherwise: str) -> str:
    """Return an address's origin, or `otherwise` for what is not an Address."""
    return given.origin if isinstance(given, Address) else otherwise


def _from_environment(variable: str) -> Address | None:
    return named_by(os.environ.get(variable), variable, "")


def _default(address: str, argument: str, variable: str) -> Address:
    return Address(address, f"the default: neither {argument} nor {variable} is given")


def _checked_server(server: str, origin: str) -> str:
    if "@" in server:
        # Not shown: a password may stand before the '@'.
        raise ConfigurationError(
            f"{origin} has an entry with an '@'; user and password are options (sasl.username, "
            "sasl.password)"
        )
    found = _SERVER.fullmatch(server)
    if found is None:
        hint = "; an IPv6 address is put in brackets, [::1]:9092" if server.count(":") > 1 else ""
        raise ConfigurationError(f"{origin} has the entry {server!r}; it must be HOST:PORT{hint}")
    protocol, host, port = found["protocol"], found["host"], found["port"]
    if protocol is not None and protocol.upper() not in _PROTOCOLS:
        raise ConfigurationError(
            f"{origin} has the entry {server!r}; a broker's address is HOST:PORT, without "
            f"{protocol}://"
        )
    if not host:
        raise ConfigurationError(
            f"{origin} has the entry {server!r}, which names no host; it must be HOST:PORT"
        )
    if port is not None and not (
        port.isascii() and port.isdigit() and 0 < int(port) <= _LARGEST_PORT
    ):
        raise ConfigurationError(
            f"{origin} has the entry {server!r}; its port must be a number from 1 to "
            f"{_LARGEST_PORT}"
        )
    return server
