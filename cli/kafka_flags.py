"""The flags that reach Kafka, and the settings they result in.

A flag takes precedence over the environment, and the environment over the file of -F.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from tutelage.cli.printing import typed_text
from tutelage.cli.secrets import check_command_line, check_file_mode, resolve_references
from tutelage.schemas.errors import ConfigurationError
from tutelage.transport.addresses import (
    BOOTSTRAP_VARIABLE,
    FILE_VARIABLE,
    REGISTRY_VARIABLE,
    Address,
    bootstrap_address,
    named_by,
    registry_address,
)
from tutelage.transport.hiding import is_secret_url

_PANEL = "Kafka"
_BOOTSTRAP = "bootstrap.servers"
_REGISTRY = "schema.registry."
_REGISTRY_URL = _REGISTRY + "url"
# The only setting of Confluent's serializers that has a meaning here.
_AUTO_REGISTER = "auto.register.schemas"

BootstrapFlag = Annotated[
    str | None,
    typer.Option(
        "-b",
        "--bootstrap-server",
        metavar="HOST:PORT",
        envvar=BOOTSTRAP_VARIABLE,
        rich_help_panel=_PANEL,
        help="Connect to the Kafka broker at this address. Without it, the address comes from the "
        "file of -F, or else is localhost:9092.",
        show_default=False,
    ),
]
RegistryFlag = Annotated[
    str | None,
    typer.Option(
        "--registry",
        metavar="URL",
        envvar=REGISTRY_VARIABLE,
        rich_help_panel=_PANEL,
        help="Use the schema registry at this URL; it must have Confluent's REST interface. "
        "Without it, the URL comes from the file of -F, or else is that of `tutelage stack`.",
        show_default=False,
    ),
]
FileFlag = Annotated[
    Path | None,
    typer.Option(
        "-F",
        "--command-config",
        metavar="FILE",
        envvar=FILE_VARIABLE,
        rich_help_panel=_PANEL,
        help="Read Kafka settings from a client.properties file: librdkafka's options, and those "
        "of the registry as schema.registry.*. A value may be @FILE or ${env:NAME}.",
        show_default=False,
    ),
]
OptionFlag = Annotated[
    list[str] | None,
    typer.Option(
        "-X",
        metavar="KEY=VALUE",
        rich_help_panel=_PANEL,
        help="Set an option of librdkafka; may be repeated. Give a secret as KEY=@FILE.",
        show_default=False,
    ),
]
RunFlag = Annotated[
    str | None,
    typer.Option(
        "--run",
        metavar="RUN_ID",
        help="Read this run of the topic instead of the newest one. `tutelage inspect TOPIC` lists "
        "the runs.",
        show_default=False,
    ),
]
CreateFlag = Annotated[
    bool,
    typer.Option(
        "--create/--no-create",
        help="Create the topic if it does not exist, or only check that it exists.",
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class KafkaSettings:
    """The addresses of Kafka and the registry, and the client's options."""

    bootstrap_servers: Address
    registry: Any
    options: dict[str, object] = field(repr=False)

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of `KafkaSink` and `KafkaSource`."""
        return {
            "bootstrap_servers": self.bootstrap_servers,
            "registry": self.registry,
            "options": self.options,
        }


def kafka_settings(
    bootstrap: str | None, registry: str | None, file: Path | None, options: list[str] | None
) -> KafkaSettings:
    """The settings that the flags, the environment and the file result in.

    Args:
        bootstrap: The broker's address, from its flag or, through typer, from the environment.
        registry: The registry's URL, from its flag or from the environment.
        file: A client.properties file.
        options: Options of librdkafka as KEY=VALUE.

    Returns:
        The settings.

    Raises:
        ConfigurationError: A line or an option is not key=value, others may read a file that holds
            a secret, or a secret is on the command line.
    """
    bootstrap = typed_text("--bootstrap-server", bootstrap) if bootstrap is not None else None
    registry = typed_text("--registry", registry) if registry is not None else None
    in_file = resolve_references(_properties(file), str(file)) if file is not None else {}
    with_x = _options(options or ())
    sources = (("-X", with_x), (str(file), in_file))
    servers = _first_address(
        named_by(bootstrap, BOOTSTRAP_VARIABLE, "flag --bootstrap-server"), _BOOTSTRAP, sources
    )
    named = named_by(registry, REGISTRY_VARIABLE, "flag --registry")
    if named is not None and "flag" in named.origin and is_secret_url(named):
        raise ConfigurationError(
            "--registry: its URL holds a user or a key, and everybody on this machine can read a "
            "command line; give the URL in the file of -F (schema.registry.url=...) or in "
            f"{REGISTRY_VARIABLE}"
        )
    url = _first_address(named, _REGISTRY_URL, sources)
    settings = {
        key: value
        for key, value in {**in_file, **with_x}.items()
        if key not in (_BOOTSTRAP, _REGISTRY_URL)
    }
    # It takes its own settings out; the others are librdkafka's.
    made_registry = _registry(url, settings)
    return KafkaSettings(
        bootstrap_servers=bootstrap_address(servers),
        registry=made_registry,
        options=dict(settings),
    )


def _options(typed: Sequence[str]) -> dict[str, str]:
    """The options of -X, checked and with their references resolved."""
    found: dict[str, str] = {}
    for argument in typed:
        option = typed_text("-X", argument)
        key, equals, value = (part.strip() for part in option.partition("="))
        if not equals or not key:
            raise ConfigurationError(f"-X {option.split('=')[0]}: options are given as key=value")
        check_command_line(key, value)
        found |= resolve_references({key: value}, "-X")
    return found


def _registry(url: Address | None, settings: dict[str, str]) -> Any:
    """The registry's client. Its settings are removed from `settings`."""
    from tutelage.transport.http_registry import HttpRegistry

    own = {
        key.removeprefix(_REGISTRY): settings.pop(key)
        for key in list(settings)
        if key.startswith(_REGISTRY)
    }
    auto_register = settings.pop(_AUTO_REGISTER, "true").lower()
    if auto_register not in ("true", "false"):
        raise ConfigurationError(f"{_AUTO_REGISTER}={auto_register}: it is true or false")
    return HttpRegistry(
        registry_address(url), settings=dict(own), auto_register=auto_register == "true"
    )


def _first_address(
    flag: Address | None, key: str, sources: Sequence[tuple[str, Mapping[str, str]]]
) -> Address | None:
    """The address that takes precedence: flag, -X, environment, file, in this order."""
    named = [
        Address(held[key], f"{key} in {place}" if place != "-X" else f"-X {key}")
        for place, held in sources
        if key in held
    ]
    if flag is None:
        return named[0] if named else None
    # Typer passes a value from the environment as the flag's; -X takes precedence over it.
    over = named and "environment" in flag.origin and key in sources[0][1]
    return named[0] if over else flag


def _properties(file: Path) -> dict[str, str]:
    """The settings in a properties file."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(f"{file} cannot be read: {reason}") from error
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith(("#", "!")):
            continue
        key, equals, value = line.partition("=")
        if not equals:
            raise ConfigurationError(f"{file}, line {number}: not key=value")
        found[key.strip()] = value.strip()
    check_file_mode(file, found)
    return found
