"""Checks of arguments at the call, so that a mistake is an error where it was made.

Each function takes the name and the value of an argument. It checks the value with the protocol of
its type (`operator.index`, `os.fspath`, ...), and returns it in the type that the code works with.
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


def check_whole_number(name: str, value: Any, *, least: int = 1, most: int = _LARGEST) -> int:
    """Return an integer from `least` to `most`, of any type with `__index__` (numpy's, torch's).

    Raises:
        ConfigurationError: The value is a bool, is not an integer, or is outside the limits.
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


def check_seconds(name: str, value: Any, *, zero: bool = False) -> float:
    """Return a finite number of seconds above zero; `zero` allows zero as well.

    Raises:
        ConfigurationError: The value is not a finite number, or too small.
    """
    number = check_real_number(name, value)
    if number < 0 or (number == 0 and not zero):
        raise ConfigurationError(
            f"{name} is {value!r}; it must be a number of seconds "
            f"{'from 0 on' if zero else 'above 0'}"
        )
    return number


def check_real_number(name: str, value: Any) -> float:
    """Return a finite number as a float.

    Raises:
        ConfigurationError: The value is a bool, a text, NaN, infinite, or not a number at all.
    """
    try:
        is_number = isinstance(value, SupportsFloat) and not isinstance(value, (bool, str, bytes))
        number = float(value) if is_number else math.nan
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigurationError(f"{name} is {value!r}; it must be a finite number")
    return number


def check_flag(name: str, value: Any) -> bool:
    """Return True or False.

    Raises:
        ConfigurationError: The value is not a bool. A text such as "false" must not count as true.
    """
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} is {value!r}; it must be True or False")
    return value


def check_text(name: str, value: Any, *, empty: bool = False) -> str:
    """Return a text; `empty` allows the empty one.

    Raises:
        ConfigurationError: The value is not a text, is empty, or cannot be encoded in UTF-8.
    """
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


def check_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """Return one of the choices.

    Raises:
        ConfigurationError: The value is none of them.
    """
    if not isinstance(value, str) or value not in choices:
        raise ConfigurationError(
            f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}"
        )
    return value


def check_options(name: str, value: Any) -> dict[str, object]:
    """Return a copy of the options, name -> value; None stands for no options.

    Raises:
        ConfigurationError: The value is not a mapping, or a name is not a text.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        # The value is not shown, because options may hold a password.
        raise ConfigurationError(
            f"{name} is of type {type(value).__name__}; it must be a mapping of option to value"
        )
    return {
        check_text(f"the name of an option in {name}", key): each for key, each in value.items()
    }


def absolute_path(name: str, value: Any) -> Path:
    """Make a path absolute: its meaning must not change with the working directory.

    Raises:
        ConfigurationError: The value is not a path, is empty, holds a null character, or is
            relative to a directory that was removed.
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
            f"{name} is {value!r}, but the working directory is gone ({error.strerror}); name the "
            "whole path"
        ) from error
