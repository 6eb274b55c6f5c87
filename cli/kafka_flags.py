"""The flags Kafka users know, and where their values come from: flags over environment over file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from tutelage.cli.printing import typed_text
from tutelage.cli.secrets import refuse_on_command_line, refuse_open_file, resolved
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
_REGISTRY = "schema.registry."
# The one setting of Confluent's serializers that concerns us.
_AUTO_REGISTER = "auto.register.schemas"

BootstrapFlag = Annotated[
    str | None,
    typer.Option(
        "-b", "--bootstrap-server", metavar="HOST:PORT", envvar=BOOTSTRAP_VARIABLE, rich_help_panel=_PANEL,
        help="A broker's address. Unless given: the file's, else localhost:9092.", show_default=False,
    ),
]  # fmt: skip
RegistryFlag = Annotated[
    str | None,
    typer.Option(
        "--registry", metavar="URL", envvar=REGISTRY_VARIABLE, rich_help_panel=_PANEL,
        help="The schema registry (Confluent's interface). Unless given: the file's, else that of `tutelage stack`.", show_default=False,
    ),
]  # fmt: skip
FileFlag = Annotated[
    Path | None,
    typer.Option(
        "-F", "--command-config", metavar="FILE", envvar=FILE_VARIABLE, rich_help_panel=_PANEL,
        help="client.properties: librdkafka's names, and schema.registry.*; values may be @FILE or ${env:NAME}.", show_default=False,
    ),
]  # fmt: skip
OptionFlag = Annotated[
    list[str] | None,
    typer.Option(
        "-X",
        metavar="KEY=VALUE",
        rich_help_panel=_PANEL,
        help="A librdkafka option; may be repeated. Secrets as KEY=@FILE.",
        show_default=False,
    ),
]

RunFlag = Annotated[
    str | None,
    typer.Option(
        "--run",
        metavar="RUN_ID",
        help="Read this run of the topic, not the newest; `tutelage inspect TOPIC` lists its runs.",
        show_default=False,
    ),
]

CreateFlag = Annotated[
    bool,
    typer.Option(
        "--create/--no-create",
        help="Whether to create the topic where it is missing, or only to check it.",
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class KafkaSettings:
    """Where Kafka is and how to speak to it, as keyword arguments for `KafkaSink` and `KafkaSource`."""

    bootstrap_servers: Address
    registry: Any
    options: dict[str, object] = field(repr=False)

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments."""
        return {
            "bootstrap_servers": self.bootstrap_servers,
            "registry": self.registry,
            "options": self.options,
        }


def kafka_settings(
    bootstrap: str | None, registry: str | None, file: Path | None, options: list[str] | None
) -> KafkaSettings:
    """What the flags, the environment (through typer) and the file come to.

    Raises ConfigurationError for a line or option that is no key=value, for a file with secrets that others may read, and for secrets on the
    command line.
    """
    from tutelage.transport.http_registry import HttpRegistry

    bootstrap = typed_text("--bootstrap-server", bootstrap) if bootstrap is not None else None
    registry = typed_text("--registry", registry) if registry is not None else None
    in_file = resolved(_properties(file), str(file)) if file is not None else {}
    with_x: dict[str, str] = {}
    for typed in options or ():
        option = typed_text("-X", typed)
        key, equals, value = (part.strip() for part in option.partition("="))
        if not equals or not key:
            raise ConfigurationError(f"-X {option.split('=')[0]}: options are given as key=value")
        refuse_on_command_line(key, value)
        with_x |= resolved({key: value}, "-X")
    sources = (("-X", with_x), (str(file), in_file))
    servers = _first_of(
        named_by(bootstrap, BOOTSTRAP_VARIABLE, "flag --bootstrap-server"),
        "bootstrap.servers",
        sources,
    )
    named = named_by(registry, REGISTRY_VARIABLE, "flag --registry")
    if named is not None and "flag" in named.origin and is_secret_url(named):
        raise ConfigurationError(
            "--registry: its URL holds a user or a key, and everybody on this machine can read a command line; give the URL "
            f"in the file of -F (schema.registry.url=...) or in {REGISTRY_VARIABLE}"
        )
    url = _first_of(named, _REGISTRY + "url", sources)
    given = {
        key: value
        for key, value in {**in_file, **with_x}.items()
        if key not in ("bootstrap.servers", _REGISTRY + "url")
    }
    registry_settings = {
        key.removeprefix(_REGISTRY): given.pop(key)
        for key in list(given)
        if key.startswith(_REGISTRY)
    }
    auto_register = given.pop(_AUTO_REGISTER, "true").lower()
    if auto_register not in ("true", "false"):
        raise ConfigurationError(f"{_AUTO_REGISTER}={auto_register}: it is true or false")
    return KafkaSettings(
        bootstrap_servers=bootstrap_address(servers),
        registry=HttpRegistry(
            registry_address(url),
            settings=dict(registry_settings),
            auto_register=auto_register == "true",
        ),
        options=dict(given),
    )


def _first_of(
    flag: Address | None, key: str, sources: Sequence[tuple[str, Mapping[str, str]]]
) -> Address | None:
    """An address that a flag, -X, the environment or the file names: the first of them in this order."""
    named = [
        Address(held[key], f"{key} in {place}" if place != "-X" else f"-X {key}")
        for place, held in sources
        if key in held
    ]
    if flag is None:
        return named[0] if named else None
    # What typer takes from the environment comes as the flag's value.
    over = named and "environment" in flag.origin and key in sources[0][1]
    return named[0] if over else flag


def _properties(file: Path) -> dict[str, str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(f"{file} cannot be read: {said}") from error
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith(("#", "!")):
            continue
        key, equals, value = line.partition("=")
        if not equals:
            raise ConfigurationError(f"{file}, line {number}: not key=value")
        found[key.strip()] = value.strip()
    refuse_open_file(file, found)
    return found
