"""What the user asked for about how keys travel, checked when it is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tutelage.schemas.arguments import check_text
from tutelage.schemas.dtypes import DTYPES, WIRE_ENCODINGS
from tutelage.schemas.errors import ConfigurationError, SinkExists
from tutelage.schemas.record import Description

# What all floats may be sent as.
_FOR_ALL_FLOATS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True, slots=True)
class WireOptions:
    """What the user asked for: an encoding per key (or one for all floats), and which keys are ragged."""

    encodings: Mapping[str, str] | str
    ragged: frozenset[str]

    def encoding(self, key: str, dtype: str) -> str:
        """The wire dtype of a key whose model dtype is `dtype`."""
        if isinstance(self.encodings, str):
            return self.encodings if self.encodings and dtype in ("float32", "float64") else dtype
        return self.encodings.get(key, dtype)

    @property
    def named(self) -> set[str]:
        """The keys that are named."""
        return set(self.ragged) | (
            set() if isinstance(self.encodings, str) else set(self.encodings)
        )

    def refuse_other(self, there: Description, where: str) -> None:
        """SinkExists, naming what differs, unless a run that is to be continued was begun with these options."""
        differs = [
            f"{spec.key!r} travels as {spec.wire} there, as {self.encoding(spec.key, spec.dtype)} here"
            for spec in there.specs
            if spec.wire != self.encoding(spec.key, spec.dtype)
        ]
        differs += [
            f"{key!r} is not ragged there"
            for key in sorted(self.ragged)
            if key in there and not there[key].ragged
        ]
        if unknown := sorted(self.named - set(there)):
            differs.append(f"wire or ragged_keys names {unknown}, keys that are not there")
        if differs:
            raise SinkExists(
                f"{where} holds a run that was begun with other options: {'; '.join(differs)}. Continue it with the same wire and ragged_keys, or "
                "write elsewhere"
            )


def wire_options(wire: Any, ragged: Any) -> WireOptions:
    """The arguments `wire` and `ragged_keys` of a teacher. ConfigurationError if they are of another kind, or name what does not exist."""
    wire = _named(wire)
    if isinstance(wire, str):
        if wire and wire not in _FOR_ALL_FLOATS:
            raise ConfigurationError(
                f"wire is {wire!r}; all floats can travel as {', '.join(_FOR_ALL_FLOATS)}, or as they are (an empty text)"
            )
    elif isinstance(wire, Mapping):
        wire = {_key("wire", key): _encoding(key, encoding) for key, encoding in wire.items()}
    else:
        raise ConfigurationError(
            f"wire is {wire!r}; give a dtype for all floats, or a dict of key -> dtype"
        )
    if isinstance(ragged, (str, bytes, Mapping)) or not isinstance(ragged, Iterable):
        raise ConfigurationError(
            f"ragged_keys is {ragged!r}; give a list of keys, such as ['logits']"
        )
    return WireOptions(encodings=wire, ragged=frozenset(_key("ragged_keys", key) for key in ragged))


def _key(where: str, key: Any) -> str:
    return check_text(f"a key in {where}", key, empty=True)


def _named(encoding: Any) -> Any:
    """A torch dtype by its name; anything else as it is. Torch need not be imported for this."""
    kind = type(encoding)
    return (
        str(encoding).removeprefix("torch.")
        if (kind.__module__, kind.__name__) == ("torch", "dtype")
        else encoding
    )


def _encoding(key: str, encoding: Any) -> str:
    encoding = _named(encoding)
    if not isinstance(encoding, str) or encoding not in DTYPES:
        smaller = sorted({name for names in WIRE_ENCODINGS.values() for name in names})
        raise ConfigurationError(
            f"wire[{key!r}] is {encoding!r}, which is no dtype; floats can travel as {', '.join(smaller)}"
        )
    return encoding
