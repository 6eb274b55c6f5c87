"""Description <-> Avro schema of one teacher's stream.

The fixed part is `knowledge.avsc`. Each key adds one field. Its name is the escaped key; its type
is the record Tensor or RaggedTensor; its default is an empty tensor, so that keys can be added and
removed under FULL_TRANSITIVE; its properties hold the key, dtype, row shape and wire dtype. A
writer's schema must have exactly this form: it is checked before anything is decoded with it.
Knows no registry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from tutelage.schemas.errors import SchemaError, UnsupportedSchema
from tutelage.schemas.field_names import field_name, key_from_field_name
from tutelage.schemas.limits import DEFAULT_LIMITS, Limits
from tutelage.schemas.record import Description, KeySpec

_TENSOR = {
    "type": "record",
    "name": "Tensor",
    "doc": "Rows of one key: C order, little-endian.",
    "fields": [
        {"name": "shape", "type": {"type": "array", "items": "int"}},
        {"name": "data", "type": "bytes"},
    ],
}
_RAGGED = {
    "type": "record",
    "name": "RaggedTensor",
    # On the wire: fixed.
    "doc": "Rows of different length, one behind the other; "
    "lengths is little-endian int32, one per row.",
    "fields": [
        {"name": "lengths", "type": "bytes"},
        {"name": "shape", "type": {"type": "array", "items": "int"}},
        {"name": "data", "type": "bytes"},
    ],
}


@cache
def _fixed_part() -> str:
    return files("tutelage.schemas").joinpath("knowledge.avsc").read_text(encoding="utf-8")


def schema_from_description(description: Description) -> str:
    """Write the Avro schema of a stream with this description, as JSON text."""
    schema = json.loads(_fixed_part())
    defined: set[str] = set()
    for spec in description.specs:
        kind = _RAGGED if spec.stored.ragged else _TENSOR
        name = str(kind["name"])
        schema["fields"].append(
            {
                "name": field_name(spec.key),
                "type": f"tutelage.{name}" if name in defined else kind,
                "default": {"lengths": "", "shape": [], "data": ""}
                if spec.stored.ragged
                else {"shape": [], "data": ""},
                "key": spec.key,
                "dtype": spec.dtype,
                "shape": list(spec.shape),
                "wire": spec.wire,
            }
        )
        defined.add(name)
    return json.dumps(schema, ensure_ascii=False)


def description_from_schema(
    schema_text: str, where: str, limits: Limits = DEFAULT_LIMITS
) -> Description:
    """Read the description that a writer's schema holds.

    Raises:
        UnsupportedSchema: The schema does not have the form of this module: another fixed part,
            another order of fields, a field that is not a tensor, recursion, or more text or keys
            than the limits allow. The message names `where`.
    """
    if len(schema_text) > limits.schema_bytes:
        raise UnsupportedSchema(
            f"{where}: the Avro schema has {len(schema_text)} characters, over the limit of "
            f"{limits.schema_bytes}"
        )
    try:
        return _parse_schema(json.loads(schema_text), where, limits)
    except ValueError as error:
        raise UnsupportedSchema(f"{where}: the Avro schema is not JSON: {error}") from error
    except RecursionError as error:
        raise UnsupportedSchema(
            f"{where}: the Avro schema nests without end; Tutelage did not write it"
        ) from error


def _parse_schema(schema: Any, where: str, limits: Limits) -> Description:
    fixed = json.loads(_fixed_part())
    fields = schema.get("fields") if isinstance(schema, dict) else None
    count = len(fixed["fields"])
    if (
        not isinstance(fields, list)
        or _full_name(schema, "") != "tutelage.Knowledge"
        or schema.get("type") != "record"
        or [_without_annotations(field) for field in fields[:count]]
        != [_without_annotations(field) for field in fixed["fields"]]
    ):
        raise UnsupportedSchema(
            f"{where}: not a knowledge schema; Tutelage reads only what a Tutelage teacher wrote"
        )
    if len(fields) - count > limits.keys:
        raise UnsupportedSchema(
            f"{where}: {len(fields) - count} keys, over the limit of {limits.keys}"
        )
    defined: dict[str, Any] = {}
    return Description(tuple(_parse_field(field, defined, where) for field in fields[count:]))


def _parse_field(field: Any, defined: dict[str, Any], where: str) -> KeySpec:
    name = field.get("name") if isinstance(field, dict) else None
    here = f"{where}, field {name!r}"
    if not isinstance(name, str):
        raise UnsupportedSchema(f"{where}: a field without a name")
    kind = field.get("type")
    if isinstance(kind, str):
        kind = defined.get(kind if "." in kind else f"tutelage.{kind}")
    elif isinstance(kind, dict):
        defined[_full_name(kind, "tutelage")] = kind
    ragged = _is_type(kind, _RAGGED)
    if not ragged and not _is_type(kind, _TENSOR):
        raise UnsupportedSchema(f"{here} is not a tensor")
    shape = field.get("shape")
    if (
        not isinstance(shape, list)
        or not all(type(size) is int for size in shape)
        or len(shape) > 64
    ):
        raise UnsupportedSchema(
            f"{here}: its property shape is {'missing' if shape is None else 'not a list of sizes'}"
        )
    try:
        key = key_from_field_name(name)
        spec = KeySpec(
            key=key,
            dtype=_property(field, "dtype"),
            shape=tuple(shape),
            wire=_property(field, "wire"),
        )
    except SchemaError as error:
        raise UnsupportedSchema(f"{here}: {error}") from error
    if field.get("key") != key:
        raise UnsupportedSchema(
            f"{here} stands for key {key!r}, but its property key is {field.get('key')!r}"
        )
    if spec.stored.ragged != ragged:
        raise UnsupportedSchema(
            f"{here} has row shape {shape} and wire {spec.wire!r} but is "
            f"{'' if ragged else 'not '}ragged"
        )
    return spec


def _property(field: Mapping[str, Any], name: str) -> str:
    value = field.get(name)
    if not isinstance(value, str) or not value:
        raise SchemaError(
            f"its property {name} is {'missing' if name not in field else repr(value)}; it must "
            "name a dtype"
        )
    return value


def _full_name(schema: Mapping[str, Any], outer: str) -> str:
    """The fullname of a named type, by the rules of Avro; `outer` is the enclosing namespace."""
    name, space = schema.get("name"), schema.get("namespace", outer)
    return str(name) if "." in str(name) or not space else f"{space}.{name}"


def _is_type(kind: Any, wanted: Mapping[str, Any]) -> bool:
    return (
        isinstance(kind, dict)
        and _full_name(kind, "tutelage") == f"tutelage.{wanted['name']}"
        and _without_annotations({**kind, "name": wanted["name"]}) == _without_annotations(wanted)
    )


def is_same_schema(one: str, other: str) -> bool:
    """Whether two texts hold the same schema.

    Registries reformat a schema's text, and write names with or without their namespace.
    """
    return bool(_without_annotations(json.loads(one)) == _without_annotations(json.loads(other)))


def _without_annotations(schema: Any) -> Any:
    """A schema without what does not change the encoding: docs, defaults and namespaces."""
    if isinstance(schema, dict):
        return {
            key: _without_annotations(value)
            for key, value in schema.items()
            if key not in ("doc", "default", "namespace")
        }
    if isinstance(schema, list):
        return [_without_annotations(item) for item in schema]
    # Parsers may qualify names, which does not change their meaning.
    return schema.removeprefix("tutelage.") if isinstance(schema, str) else schema
