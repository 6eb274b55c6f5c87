"""A description becomes an Avro schema and comes back; any other schema is refused before it is used."""

from __future__ import annotations

import json
from typing import Any

import fastavro
import pytest
from hypothesis import given
from support.knowledge import descriptions

from tutelage.schemas.errors import DescriptionChanged, SchemaError, UnsupportedSchema
from tutelage.schemas.knowledge_schema import description_from_schema, schema_from_description
from tutelage.schemas.limits import DEFAULT_LIMITS
from tutelage.schemas.record import Description, KeySpec, check_compatible

TWO = Description(
    (
        KeySpec(key="2x-1", dtype="int64", shape=(1,)),
        KeySpec(key="t", dtype="float32", shape=(-1,), wire="float16"),
    )
)


@given(descriptions())
def test_every_description_comes_back(description: Description) -> None:
    assert description_from_schema(schema_from_description(description), "here") == description


@given(descriptions())
def test_every_schema_is_valid_avro_with_defaults(description: Description) -> None:
    schema = json.loads(schema_from_description(description))
    fastavro.parse_schema(schema)
    assert all("default" in field for field in schema["fields"][6:])


def test_a_schema_as_another_parser_spells_it_is_understood() -> None:
    spelled: Any = fastavro.parse_schema(json.loads(schema_from_description(TWO)))
    spelled.pop("__fastavro_parsed__", None)
    spelled.pop("__named_schemas", None)
    assert description_from_schema(json.dumps(spelled), "here") == TWO


def changed(**fields: Any) -> str:
    schema = json.loads(schema_from_description(TWO))
    schema["fields"][-1] |= fields
    return json.dumps(schema)


@pytest.mark.parametrize(
    "schema",
    [
        "",
        "{",
        "[]",
        '"long"',
        "[" * 100_000,
        '{"type": "record", "name": "Knowledge", "namespace": "tutelage", "fields": []}',
        json.dumps({**json.loads(schema_from_description(TWO)), "name": "Other"}),
        changed(type="bytes"),
        changed(type={"type": "array", "items": "tutelage.Knowledge"}),
        changed(name="k_other"),
        changed(key="other"),
        changed(dtype="float99"),
        changed(dtype=None),
        changed(shape="no"),
        changed(shape=[2, -1]),
        changed(shape=[3]),
        changed(wire="int8"),
    ],
)
def test_any_other_schema_is_refused(schema: str) -> None:
    with pytest.raises(SchemaError):
        description_from_schema(schema, "here")


def test_a_schema_beyond_the_limit_is_refused_unread() -> None:
    with pytest.raises(UnsupportedSchema, match="limit"):
        description_from_schema(" " * (DEFAULT_LIMITS.schema_bytes + 1), "here")


def test_keys_may_come_and_go_but_not_change() -> None:
    fewer, more = (
        Description(TWO.specs[:1]),
        Description((*TWO.specs, KeySpec(key="new", dtype="bool", shape=()))),
    )
    check_compatible(TWO, fewer, "here")
    check_compatible(TWO, more, "here")
    for other in (
        KeySpec(key="2x-1", dtype="int32", shape=(1,)),
        KeySpec(key="2x-1", dtype="int64", shape=(2,)),
    ):
        with pytest.raises(DescriptionChanged, match=r"here.*2x-1.*int64\[1\]"):
            check_compatible(TWO, Description((other,)), "here")


def test_a_description_without_keys_or_with_one_twice_is_refused() -> None:
    with pytest.raises(SchemaError, match="no keys"):
        Description(())
    with pytest.raises(SchemaError, match="twice"):
        Description((TWO.specs[0], TWO.specs[0]))
