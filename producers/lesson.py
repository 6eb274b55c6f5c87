"""`Lesson`: everything a teacher needs besides a place to write to; what `tutelage teach MODULE:NAME` looks up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """A model and its inputs, with what `Teacher` and `Teacher.serve` take; see there."""

    model: Any
    inputs: Any
    batch_size: int | None = None
    devices: Sequence[str] | None = None
    name: str | None = None
    revision: str = ""
    fingerprint: str = ""
    passes: int = 1
    rows_per_record: int | None = None
    wire: Mapping[str, str] | str = ""
    ragged: Sequence[str] = ()
