"""A language model's head -> a run of its own, so that students of hidden states can have it.

The rows of the run are the rows of the head's weight, one per id of the vocabulary. The keys are
`weight` `[H]`; `bias` `[]` if there is one; `norm`, ragged float64: row 0 holds the norm's weight
and then its bias, `[H]` each, the others are empty; and `settings`, ragged uint8: row 0 holds JSON,
the others are empty. The run's name is the head's checksum.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

import numpy as np
import torch

from tutelage.producers.sinks.base import Sink
from tutelage.producers.teacher import Teacher
from tutelage.schemas.record import Ragged

_ROWS_AT_ONCE = 4096


class HeadLike(Protocol):
    """What is written of a head; `tutelage.losses.Head` is one."""

    @property
    def vocabulary(self) -> int:
        """How many rows of the weight are ids."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """Its tensors by name: weight, and bias, norm_weight and norm_bias if it has them."""

    def numbers(self) -> dict[str, Any]:
        """What else changes the logits, as JSON values."""

    def checksum(self) -> str:
        """The checksum of all that changes the logits."""


def write_head(sink: Sink, head: HeadLike, *, name: str | None = None) -> None:
    """Write a head to a sink, as a run. If the sink holds all of it already, nothing happens.

    Args:
        sink: Where to write it.
        head: The head.
        name: As for `Teacher`.

    Returns:
        Nothing; the run is complete.

    Raises:
        SinkExists: The sink holds another head, or something else.
        TransportError: As for `Teacher`.
    """
    tensors = {key: each.detach() for key, each in head.tensors().items()}
    norms = {key: tensors[key] for key in ("norm_weight", "norm_bias") if key in tensors}
    checksum = head.checksum()
    dtypes = {f"{key}_dtype": str(each.dtype).removeprefix("torch.") for key, each in norms.items()}
    settings = json.dumps({**head.numbers(), **dtypes, "checksum": checksum}).encode()
    with Teacher(sink, name=name, revision=checksum, run_id=checksum) as teacher:
        for start in range(0, head.vocabulary, _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, head.vocabulary)
            rows: dict[str, Any] = {
                key: each[start:stop] for key, each in tensors.items() if key in _PER_ROW
            }
            norm: Any = torch.cat([each.double().cpu() for each in norms.values()]) if norms else []
            rows["norm"] = _first_row([] if start else norm, stop - start, np.float64)
            text = b"" if start else settings
            rows["settings"] = _first_row(np.frombuffer(text, np.uint8), stop - start, np.uint8)
            teacher.write(rows)


_PER_ROW = ("weight", "bias")


def _first_row(first: Any, rows: int, dtype: Any) -> Ragged:
    """A ragged key whose first row holds something, and whose other rows are empty."""
    values = np.asarray(first, dtype)
    lengths = np.zeros(rows, np.int64)
    lengths[0] = len(values)
    return Ragged(values, lengths)
