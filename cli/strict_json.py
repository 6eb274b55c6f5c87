"""Encodes values as strict JSON (RFC 8259), which any program can read.

There is no NaN and no Infinity, and no type is converted to text silently.
"""

from __future__ import annotations

import base64
import json
import math
import os
from typing import Any, SupportsFloat

from tutelage.cli.printing import is_shown
from tutelage.schemas.printable import is_printable


def as_json(value: Any) -> str:
    """Encode a value as one line of JSON.

    NaN and infinities become null, a complex number [real, imaginary], bytes Base64, and arrays and
    tensors lists. A character is written as itself if standard output's encoding has it and a
    terminal shows it, else as a \\u escape.

    Raises:
        TypeError: The value holds a type that has no form in JSON.
    """
    try:
        text = _dumped(value)
    except (TypeError, ValueError):
        value = _plain(value)
        text = _dumped(value)
    if not is_shown(text):
        return json.dumps(value, allow_nan=False)
    # JSON escapes only control characters below 32. Any other character that is not printable is
    # inside a string, where its escape means the same.
    return (
        text
        if is_printable(text)
        else "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)
    )


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """The value in types that JSON has."""
    if isinstance(value, dict):
        return {_key(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, complex):
        return [_plain(value.real), _plain(value.imag)]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return _plain_array(value)


def _plain_array(value: Any) -> Any:
    """Arrays, tensors and scalars as lists and numbers; dtypes that Python lacks as floats."""
    as_list = getattr(value, "tolist", None)
    plain = as_list() if as_list is not None else value
    if type(plain) is not type(value):
        return _plain(plain)
    if isinstance(value, SupportsFloat):
        return _plain(float(value))
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


def _key(key: Any) -> str:
    if isinstance(key, str):
        return key
    if key is None or isinstance(key, (bool, int)):
        return json.dumps(key)
    raise TypeError(f"a {type(key).__name__} cannot be a key in JSON")
