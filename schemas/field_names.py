"""Keys of any text <-> Avro field names, which hold only letters, digits and underscores.

The name is made of the key alone, never of its position, so that the same key has the same field in every schema:
`k_` and then the key, where `_` is doubled and any other character outside A-Z, a-z, 0-9 is `_u`, its code point in
hexadecimal, and `_`. `2x-1` is `k_2x_u2d_1`. The two ways are inverse to each other.
"""

from __future__ import annotations

import re
import string

from tutelage.schemas.errors import SchemaError

PREFIX = "k_"
_PLAIN = frozenset(string.ascii_letters + string.digits)
_ESCAPED = re.compile(r"__|_u([0-9a-f]+)_|([A-Za-z0-9]+)")


def field_name(key: str) -> str:
    """The Avro field name of a key; SchemaError if the key is no valid Unicode text."""
    if not isinstance(key, str):
        raise SchemaError(f"key {key!r} is a {type(key).__name__}; keys are text")
    try:
        key.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SchemaError(f"key {key!r} is not valid Unicode text: {error}") from error
    return PREFIX + "".join(
        char if char in _PLAIN else "__" if char == "_" else f"_u{ord(char):x}_" for char in key
    )


def key_of_field(name: str) -> str:
    """The key a field name stands for; SchemaError if no key has that name."""
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
            f"field {name!r} is not the name of a key; Tutelage did not write this schema"
        )
    return key


def _name_or_none(key: str) -> str | None:
    try:
        return field_name(key)
    except SchemaError:
        return None
