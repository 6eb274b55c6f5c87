"""A head's run -> the head, checked by its checksum.

The run's form is that of `producers/head_run.py`.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from tutelage.consumers.losses.head import Head
from tutelage.consumers.sources.base import Source
from tutelage.consumers.stages.ragged import RaggedFormat
from tutelage.consumers.stages.torch_view import torch_dtype
from tutelage.schemas.errors import CorruptData, TutelageError

_ROWS_AT_ONCE = 8192


def read_head(source: Source, *, timeout_s: float = 600.0) -> Head:
    """Read a head that `write_head` wrote.

    Args:
        source: Where it is.
        timeout_s: Seconds to wait for the topic to appear, and for each record.

    Returns:
        The head, on the CPU.

    Raises:
        CorruptData: The run is no head, or its checksum is wrong.
        WaitTimeout: The next record did not come.
        TransportError: Reading failed.
    """
    # The student's package imports this module.
    from tutelage.consumers.student import Student

    student = Student(ragged_format=RaggedFormat(padded=False), timeout_s=timeout_s)
    student.register_teacher(source)
    parts: dict[str, list[torch.Tensor]] = {}
    with student:
        if missing := {"weight", "norm", "settings"} - set(student.description):
            raise CorruptData(
                f"{source.name} holds {student.description}, which is no head: it lacks "
                f"{', '.join(sorted(missing))}; `write_head` writes one"
            )
        for batch in student.knowledge(_ROWS_AT_ONCE, pass_index=0):
            for key, values in batch.items():
                parts.setdefault(key, []).append(values)
    tensors = {key: torch.cat(values) for key, values in parts.items()}
    try:
        head, written = _head(tensors, source.name)
    except (ValueError, KeyError, TypeError, RuntimeError, TutelageError) as error:
        raise CorruptData(f"{source.name} holds no head that can be used: {error}") from error
    if head.checksum() != written:
        raise CorruptData(
            f"{source.name}: the head's checksum is {head.checksum()}, but {written} was written "
            "with it; write it again"
        )
    return head


def _head(tensors: dict[str, torch.Tensor], name: str) -> tuple[Head, str]:
    """The head, and the checksum that was written with it."""
    settings: dict[str, Any] = json.loads(bytes(tensors["settings"].tolist()))
    written = settings.pop("checksum")
    names = [key for key in ("norm_weight", "norm_bias") if f"{key}_dtype" in settings]
    width = tensors["weight"].shape[1]
    for key, values in zip(names, tensors["norm"].reshape(len(names), width), strict=True):
        settings[key] = values.to(torch_dtype(settings.pop(f"{key}_dtype")))
    head = Head(weight=tensors["weight"], bias=tensors.get("bias"), name=name, **settings)
    return head, str(written)
