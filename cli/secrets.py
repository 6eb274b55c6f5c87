"""Settings whose values may be secrets: read from a file (`@PATH`) or the environment (`${env:NAME}`), refused on a command line.

Everybody on a machine can read the command lines in its process list.
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
    """Whether a setting's value grants access: by the setting's name, or as a URL that holds a user or a key.

    A value that only says where the secret is (`@PATH`, `${env:NAME}`) is none; `@@...` is the text `@...` itself.
    """
    if (value.startswith("@") and not value.startswith("@@")) or _FROM_ENVIRONMENT.search(value):
        return False
    return holds_secret(key, value)


def resolved(settings: Mapping[str, str], where: str) -> dict[str, str]:
    """The settings with `@PATH` replaced by what the file holds (without its last line's end) and `${env:NAME}` by the variable.

    `@@` is an @ that is meant. ConfigurationError, naming the setting and never a value, if there is no such file or variable.
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
            said = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ConfigurationError(f"{where}: {path} cannot be read: {said}") from error

    def variable(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            raise ConfigurationError(f"{where}: there is no environment variable {match[1]}")
        return found

    return _FROM_ENVIRONMENT.sub(variable, value)


def refuse_on_command_line(key: str, value: str) -> None:
    """ConfigurationError for a secret that is given with -X as it is."""
    if is_secret(key, value):
        raise ConfigurationError(
            f"-X {key}: on the command line everybody on this machine can read it; give it as {key}=@FILE "
            f"or {key}='${{env:NAME}}', or in the file of -F"
        )


def refuse_open_file(file: Path, settings: Mapping[str, str]) -> None:
    """ConfigurationError for a file that holds a secret as it is and that others may read."""
    held = next((key for key, value in settings.items() if is_secret(key, value)), None)
    if (
        held is not None
        and os.name == "posix"
        and file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)
    ):
        raise ConfigurationError(f"{file} holds {held} and others may read it; chmod 600 {file}")
