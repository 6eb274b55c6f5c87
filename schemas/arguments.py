"""Checks of arguments at the call, by the type's own protocol, so that a mistake is an error where it is made.

Each function takes the argument's name and value, and returns the value in the type that the code behind works with.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsFloat

from tutelage.schemas.errors import ConfigurationError

_LARGEST = 2**31 - 1


def whole_number(name: str, value: Any, *, least: int = 1, most: int = _LARGEST) -> int:
    """An integer of any type that has `__index__` (numpy's and torch's too), within limits.

    Raises:
        ConfigurationError: The value is a bool, a float, a text or anything else, or outside `least` to `most`.
    """
    try:
        # A bool has an index, but nobody who means a number writes one.
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        within = f"at least {least}" if most >= _LARGEST else f"from {least} to {most}"
        raise ConfigurationError(f"{name} is {value!r}; it must be a whole number, {within}")
    return number


def seconds(name: str, value: Any, *, zero: bool = False) -> float:
    """A finite number of seconds above zero, or with `zero` not below it.

    Raises:
        ConfigurationError: The value is no number, not finite, or not large enough.
    """
    number = real_number(name, value)
    if number < 0 or (number == 0 and not zero):
        raise ConfigurationError(
            f"{name} is {value!r}; it must be a number of seconds {'from 0 on' if zero else 'above 0'}"
        )
    return number


def real_number(name: str, value: Any) -> float:
    """A finite number, as a float.

    Raises:
        ConfigurationError: The value is a bool, a text, no number, NaN or infinite.
    """
    try:
        is_number = isinstance(value, SupportsFloat) and not isinstance(value, (bool, str, bytes))
        number = float(value) if is_number else math.nan
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigurationError(f"{name} is {value!r}; it must be a finite number")
    return number


def flag(name: str, value: Any) -> bool:
    """True or False. ConfigurationError for anything else, so that no text such as "false" counts as true."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} is {value!r}; it must be True or False")
    return value


def text(name: str, value: Any, *, empty: bool = False) -> str:
    """A text, not empty unless `empty` allows it. ConfigurationError for anything else, and for text that UTF-8 cannot hold."""
    if not isinstance(value, str) or not (value or empty):
        raise ConfigurationError(
            f"{name} is {value!r}; it must be a text{'' if empty else ', not empty'}"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"{name} is {value!r}, which holds half a character (a lone surrogate); it must be text"
        ) from None
    return value


def one_of(name: str, value: Any, choices: Sequence[str]) -> str:
    """One of the choices. ConfigurationError for anything else."""
    if not isinstance(value, str) or value not in choices:
        raise ConfigurationError(
            f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}"
        )
    return value


def option_mapping(name: str, value: Any) -> dict[str, object]:
    """Options by name, as a dict of their own; None is none of them. ConfigurationError for anything but a mapping with texts as names."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        # Its value is not shown: options may hold a password.
        raise ConfigurationError(
            f"{name} is of type {type(value).__name__}; it must be a mapping of option to value"
        )
    return {text(f"the name of an option in {name}", key): each for key, each in value.items()}


def absolute_path(name: str, value: Any) -> Path:
    """The path as an absolute one: what a relative one names must not change with the working directory.

    Raises:
        ConfigurationError: The value is no path, is empty, holds a null character, or is relative to a folder that was removed.
    """
    try:
        given = os.fspath(value)
    except TypeError:
        given = b""
    if not isinstance(given, str) or not given or "\0" in given:
        raise ConfigurationError(f"{name} is {value!r}; it must be the path of a file")
    try:
        return Path(os.path.abspath(given))
    except OSError as error:
        raise ConfigurationError(
            f"{name} is {value!r}, but the working directory is gone ({error.strerror}); name the whole path"
        ) from error
