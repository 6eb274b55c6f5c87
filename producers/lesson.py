"""`Lesson`: what a teacher needs besides a sink, as `tutelage teach MODULE:NAME` takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.producers.wire_options import wire_options
from tutelage.schemas.arguments import check_text, check_whole_number
from tutelage.schemas.encodings import Encoding
from tutelage.schemas.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """A model and its inputs, with the other arguments of `Teacher` and `Teacher.serve`.

    `tutelage teach MODULE:NAME` expects `NAME` to be a Lesson, or a function that returns one.

    Args:
        model: As `model` of `Teacher.serve`.
        inputs: As `inputs` of `Teacher.serve`: the batches. A lesson that only answers queries needs
            none.
        batch_size: As for `Teacher.serve`.
        devices: As for `Teacher.serve`; names, such as `["cuda:0"]`.
        name: As for `Teacher`.
        revision: As for `Teacher`.
        inputs_fingerprint: As for `Teacher`.
        head: As for `Teacher`.
        passes: As for `Teacher`.
        rows_per_record: As for `Teacher`.
        wire: As for `Teacher`.
        ragged_keys: As for `Teacher`.

    Raises:
        ConfigurationError: An argument has the wrong type or value.
    """

    model: Any
    inputs: Any = None
    batch_size: int | None = None
    devices: Sequence[str] | None = None
    name: str | None = None
    revision: str = ""
    inputs_fingerprint: str = ""
    head: str = ""
    passes: int = 1
    rows_per_record: int | None = None
    wire: Mapping[str, str | Encoding] | str = ""
    ragged_keys: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("batch_size", "passes", "rows_per_record"):
            value = getattr(self, name)
            if value is not None or name == "passes":
                object.__setattr__(self, name, check_whole_number(name, value))
        if self.name is not None:
            check_text("name", self.name)
        check_text("revision", self.revision, empty=True)
        check_text("inputs_fingerprint", self.inputs_fingerprint, empty=True)
        check_text("head", self.head, empty=True)
        if self.devices is not None and (
            isinstance(self.devices, str) or not isinstance(self.devices, Sequence)
        ):
            raise ConfigurationError(
                f"devices is {self.devices!r}; give a list of devices, such as ['cuda:0', 'cuda:1']"
            )
        wire_options(self.wire, self.ragged_keys)
