"""Where Kafka and its registry are: as given, else as the environment says, else on this machine.

The one place that knows these names of the environment. An address knows who named it, so that an error can say where to change it.
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
# Where `tutelage stack up` puts it; Confluent's own registry would be http://localhost:8081.
DEFAULT_REGISTRY = "http://localhost:8081/apis/ccompat/v7"

_BOOTSTRAP_ARGUMENT, _REGISTRY_ARGUMENT = "argument bootstrap_servers", "argument registry"
_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_SERVER = re.compile(
    r"(?:(?P<protocol>[^:/]*)://)?(?P<host>\[[^\s\[\]/@]+\]|[^\s:/@\[\]]*)(?::(?P<port>[^:]*))?"
)
_LARGEST_PORT = 65535


class Address(str):
    """An address, and in `origin` who named it: an argument, a flag, a file, an environment variable, or nobody."""

    origin: str

    def __new__(cls, value: str, origin: str) -> Address:
        made = super().__new__(cls, value)
        made.origin = origin
        return made

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]  # a plain text has no origin
        return str(self), self.origin

    @property
    def with_origin(self) -> str:
        """The address and who named it, for errors."""
        return f"{self} ({self.origin})"


def bootstrap_address(given: str | Sequence[str] | None) -> Address:
    """The brokers to ask first, as one text: those given, else those of the environment, else the default.

    Args:
        given: `HOST:PORT`, several of them with commas between, or a list or tuple of such.

    Raises:
        ConfigurationError: It is none of these, is empty, or names a broker without a host or with a port that is none.
    """
    if given is None:
        given = _from_environment(BOOTSTRAP_VARIABLE) or _default(
            DEFAULT_BOOTSTRAP, "bootstrap_servers", BOOTSTRAP_VARIABLE
        )
    origin = origin_of(given, _BOOTSTRAP_ARGUMENT)
    if not isinstance(given, (str, list, tuple)):
        raise ConfigurationError(
            f"{origin} is of type {type(given).__name__}; it must be a text HOST:PORT, or a list of them"
        )
    servers: list[str] = []
    for entry in [given] if isinstance(given, str) else given:
        if not isinstance(entry, str):
            raise ConfigurationError(
                f"{origin} holds a {type(entry).__name__}; each entry must be a text HOST:PORT"
            )
        # Both Kafka clients pass over what is empty between two commas.
        named = [server for server in map(str.strip, entry.split(",")) if server]
        if not named:
            raise ConfigurationError(f"{origin} has an entry that is empty; it must be HOST:PORT")
        servers += [_checked_server(server, origin) for server in named]
    if not servers:
        raise ConfigurationError(f"{origin} names no broker; it must hold at least one HOST:PORT")
    return Address(",".join(servers), origin)


def registry_address(given: str | None) -> Address:
    """The registry's URL: the one given, else that of the environment, else the default. It may hold secrets: never show it."""
    if given is None:
        return _from_environment(REGISTRY_VARIABLE) or _default(
            DEFAULT_REGISTRY, "registry", REGISTRY_VARIABLE
        )
    return Address(given, origin_of(given, _REGISTRY_ARGUMENT))


def named_by(value: str | None, variable: str, otherwise: str) -> Address | None:
    """A flag's value, which may have come from its environment variable; None if there is none."""
    if not value:
        return None
    return Address(
        value,
        f"environment variable {variable}" if os.environ.get(variable) == value else otherwise,
    )


def origin_of(given: object, otherwise: str) -> str:
    """Who named an address."""
    return given.origin if isinstance(given, Address) else otherwise


def _from_environment(variable: str) -> Address | None:
    return named_by(os.environ.get(variable), variable, "")


def _default(address: str, argument: str, variable: str) -> Address:
    return Address(address, f"the default: neither {argument} nor {variable} is given")


def _checked_server(server: str, origin: str) -> str:
    if "@" in server:
        # Not shown: what is before it may be a password.
        raise ConfigurationError(
            f"{origin} has an entry with an '@'; user and password are options (sasl.username, sasl.password)"
        )
    found = _SERVER.fullmatch(server)
    if found is None:
        hint = "; an IPv6 address is put in brackets, [::1]:9092" if server.count(":") > 1 else ""
        raise ConfigurationError(f"{origin} has the entry {server!r}; it must be HOST:PORT{hint}")
    protocol, host, port = found["protocol"], found["host"], found["port"]
    if protocol is not None and protocol.upper() not in _PROTOCOLS:
        raise ConfigurationError(
            f"{origin} has the entry {server!r}; a broker's address is HOST:PORT, without {protocol}://"
        )
    if not host:
        raise ConfigurationError(
            f"{origin} has the entry {server!r}, which names no host; it must be HOST:PORT"
        )
    if port is not None and not (
        port.isascii() and port.isdigit() and 0 < int(port) <= _LARGEST_PORT
    ):
        raise ConfigurationError(
            f"{origin} has the entry {server!r}; its port must be a number from 1 to {_LARGEST_PORT}"
        )
    return server
