"""A teacher's arguments `wire` and `ragged_keys`, checked: how each key is sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tutelage.schemas.arguments import check_text
from tutelage.schemas.dtypes import DTYPES, WIRE_ENCODINGS
from tutelage.schemas.encodings import (
    ENCODING_FORMS,
    ENCODING_NAMES,
    Encoding,
    Int8,
    Sampled,
    TopK,
    parse_encoding,
)
from tutelage.schemas.errors import ConfigurationError, SinkExists
from tutelage.schemas.record import Description

# The wire dtypes that can be given for all floats at once.
_FOR_ALL_FLOATS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True, slots=True)
class WireOptions:
    """How keys travel, as the user asked.

    Attributes:
        dtypes: Key -> wire dtype; or one wire dtype for all floats, "" to keep their dtypes.
        encoded: Key -> the encoding of its vectors, of the keys that have one.
        ragged: The keys whose rows differ in length.
    """

    dtypes: Mapping[str, str] | str
    encoded: Mapping[str, Encoding]
    ragged: frozenset[str]

    def encoding(self, key: str, dtype: str) -> str:
        """Return the property `wire` of a key whose dtype in the model's output is `dtype`."""
        if key in self.encoded:
            return str(self.encoded[key])
        if isinstance(self.dtypes, str):
            return self.dtypes if self.dtypes and dtype in ("float32", "float64") else dtype
        return self.dtypes.get(key, dtype)

    @property
    def named(self) -> set[str]:
        """All keys that the options name."""
        dtypes = set() if isinstance(self.dtypes, str) else set(self.dtypes)
        return set(self.ragged) | set(self.encoded) | dtypes

    def check_same_as(self, held: Description, sink_name: str) -> None:
        """Check that a run can be continued with these options.

        Args:
            held: The description of the run that the sink holds.
            sink_name: The sink's name, for the error.

        Raises:
            SinkExists: The run was begun with other options; the message says which.
        """
        differs = [
            f"{spec.key!r} travels as {spec.wire} there, as {self.encoding(spec.key, spec.dtype)} "
            "here"
            for spec in held.specs
            if spec.wire != self.encoding(spec.key, spec.dtype)
        ]
        differs += [
            f"{key!r} is not ragged there"
            for key in sorted(self.ragged)
            if key in held and not held[key].ragged
        ]
        if unknown := sorted(self.named - set(held)):
            differs.append(f"wire or ragged_keys names {unknown}, keys that it does not have")
        if differs:
            raise SinkExists(
                f"{sink_name} holds a run that was begun with other options: {'; '.join(differs)}. "
                "Continue it with the same wire and ragged_keys, or write elsewhere"
            )


def wire_options(wire: Any, ragged_keys: Any) -> WireOptions:
    """Check a teacher's arguments `wire` and `ragged_keys`, and return them as options.

    Raises:
        ConfigurationError: An argument has the wrong type, or names a dtype or encoding that does
            not exist.
    """
    wire = _dtype_name(wire)
    encoded: dict[str, Encoding] = {}
    if isinstance(wire, str):
        if wire.split(",")[0].split(":")[0] in ENCODING_NAMES:
            raise ConfigurationError(
                f"wire is {wire!r}, which is for vectors and must name its key: "
                f"wire={{'logits': {wire!r}}} (--wire logits={wire})"
            )
        if wire and wire not in _FOR_ALL_FLOATS:
            raise ConfigurationError(
                f"wire is {wire!r}; all floats can travel as {', '.join(_FOR_ALL_FLOATS)}, or "
                "unchanged (an empty text)"
            )
    elif isinstance(wire, Mapping):
        given = {
            _check_key("wire", key): _check_encoding(key, encoding)
            for key, encoding in wire.items()
        }
        encoded = {key: each for key, each in given.items() if not isinstance(each, str)}
        wire = {key: each for key, each in given.items() if isinstance(each, str)}
    else:
        raise ConfigurationError(
            f"wire is {wire!r}; give a dtype for all floats, or a dict of key -> dtype or encoding"
        )
    if isinstance(ragged_keys, (str, bytes, Mapping)) or not isinstance(ragged_keys, Iterable):
        raise ConfigurationError(
            f"ragged_keys is {ragged_keys!r}; give a list of keys, such as ['logits']"
        )
    ragged = frozenset(_check_key("ragged_keys", key) for key in ragged_keys)
    return WireOptions(dtypes=wire, encoded=encoded, ragged=ragged)


def _check_key(where: str, key: Any) -> str:
    return check_text(f"a key in {where}", key, empty=True)


def _dtype_name(encoding: Any) -> Any:
    """Return the name of a torch dtype, and anything else unchanged. Does not import torch."""
    kind = type(encoding)
    return (
        str(encoding).removeprefix("torch.")
        if (kind.__module__, kind.__name__) == ("torch", "dtype")
        else encoding
    )


def _check_encoding(key: str, encoding: Any) -> str | Encoding:
    """A wire dtype's name, or an encoding."""
    if isinstance(encoding, (Sampled, TopK, Int8)):
        return encoding
    encoding = _dtype_name(encoding)
    if isinstance(encoding, str):
        try:
            # First, since int8 is a dtype too.
            parsed = parse_encoding(encoding)
        except ConfigurationError as error:
            raise ConfigurationError(f"wire[{key!r}]: {error}") from error
        if parsed is not None:
            return parsed
        if encoding in DTYPES:
            return encoding
    smaller = sorted({name for names in WIRE_ENCODINGS.values() for name in names})
    raise ConfigurationError(
        f"wire[{key!r}] is {encoding!r}, which is neither a dtype nor an encoding; floats can "
        f"travel as {', '.join(smaller)}, vectors of floats also as {ENCODING_FORMS}"
    )
