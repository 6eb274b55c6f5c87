"""Settings whose values may be secrets.

A value may be read from a file (`@PATH`) or from the environment (`${env:NAME}`). A secret on a
command line is refused: everybody on the machine can read command lines in the process list.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from tutelage.schemas.errors import ConfigurationError
from tutelage.transport.hiding import holds_secret

_FROM_ENVIRONMENT = re.compile(r"\$\{env:([^}]+)\}")
_MOST_BYTES = 1 << 20


def is_secret(key: str, value: str = "") -> bool:
    """Whether a value grants access, by the setting's name or as a URL with a user or a key.

    A reference (`@PATH`, `${env:NAME}`) is not a secret. `@@TEXT` is the text `@TEXT`, not a
    reference.
    """
    if (value.startswith("@") and not value.startswith("@@")) or _FROM_ENVIRONMENT.search(value):
        return False
    return holds_secret(key, value)


def resolve_references(settings: Mapping[str, str], where: str) -> dict[str, str]:
    """Replace references in settings by the values that they refer to.

    `@PATH` becomes the file's text without its last line break, `${env:NAME}` the variable's value,
    and a leading `@@` one `@`.

    Args:
        settings: Settings by name.
        where: Where the settings come from, for errors.

    Returns:
        The settings with their values.

    Raises:
        ConfigurationError: A file cannot be read or a variable does not exist. The message names
            the setting, never a value.
    """
    return {key: _resolved(value, f"{where}: {key}") for key, value in settings.items()}


def _resolved(value: str, where: str) -> str:
    if value.startswith("@@"):
        return value[1:]
    if value.startswith("@"):
        path = Path(value[1:])
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise ConfigurationError(f"{where}: {path} is too large to be a setting")
            return path.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ConfigurationError(f"{where}: {path} cannot be read: {reason}") from error

    def variable(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            raise ConfigurationError(f"{where}: there is no environment variable {match[1]}")
        return found

    return _FROM_ENVIRONMENT.sub(variable, value)


def check_command_line(key: str, value: str) -> None:
    """Raise ConfigurationError for a secret that -X gives as plain text."""
    if is_secret(key, value):
        raise ConfigurationError(
            f"-X {key}: on the command line everybody on this machine can read it; give it as "
            f"{key}=@FILE or {key}='${{env:NAME}}', or in the file of -F"
        )


def check_file_mode(file: Path, settings: Mapping[str, str]) -> None:
    """Raise ConfigurationError if others may read a file that holds a secret as plain text."""
    held = next((key for key, value in settings.items() if is_secret(key, value)), None)
    if (
        held is not None
        and os.name == "posix"
        and file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)
    ):
        raise ConfigurationError(f"{file} holds {held} and others may read it; chmod 600 {file}")
