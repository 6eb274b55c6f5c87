"""A key, which may be any text <-> an Avro field name of letters, digits and underscores.

A field name is `k_` and the key, where `_` is doubled, and any other character outside A-Z, a-z,
0-9 is `_u`, its code point in hexadecimal, and `_`: the key `2x-1` has the field `k_2x_u2d_1`. The
name depends on the key alone, not on its position, so that a key has the same field in every
schema. The two functions are the inverse of each other.
"""

from __future__ import annotations

import re
import string

from tutelage.schemas.errors import SchemaError

PREFIX = "k_"
_PLAIN = frozenset(string.ascii_letters + string.digits)
_ESCAPED = re.compile(r"__|_u([0-9a-f]+)_|([A-Za-z0-9]+)")


def field_name(key: str) -> str:
    """Encode a key as a field name.

    Raises:
        SchemaError: The key is not valid Unicode text.
    """
    if not isinstance(key, str):
        raise SchemaError(f"key {key!r} is a {type(key).__name__}; keys are text")
    try:
        key.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SchemaError(f"key {key!r} is not valid Unicode text: {error}") from error
    return PREFIX + "".join(
        char if char in _PLAIN else "__" if char == "_" else f"_u{ord(char):x}_" for char in key
    )


def key_from_field_name(name: str) -> str:
    """Decode a field name to its key.

    Raises:
        SchemaError: No key has this field name.
    """
    parts: list[str] = []
    position = len(PREFIX)
    while position < len(name):
        match = _ESCAPED.match(name, position)
        if match is None:
            break
        code, plain = match.groups()
        parts.append(
            plain
            or ("_" if code is None else chr(int(code, 16)) if int(code, 16) < 0x110000 else "")
        )
        position = match.end()
    key = "".join(parts)
    if not name.startswith(PREFIX) or position != len(name) or _name_or_none(key) != name:
        raise SchemaError(
            f"field {name!r} does not stand for a key; Tutelage did not write this schema"
        )
    return key


def _name_or_none(key: str) -> str | None:
    try:
        return field_name(key)
    except SchemaError:
        return None
