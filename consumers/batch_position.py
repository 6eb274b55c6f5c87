"""Where a batch ends -> the state behind it, by arithmetic. No I/O, threads or clocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tutelage.consumers.position import Position
from tutelage.consumers.resume_state import ResumeState
from tutelage.consumers.sources.base import StreamInfo
from tutelage.schemas.errors import ConfigurationError


def check_position(at: Any) -> tuple[int, int, int, int]:
    """Return what a batch has under `position_key`: pass, batches and rows of it, rows of a batch.

    Args:
        at: The int64 tensor `[4]`, or its four numbers.

    Raises:
        ConfigurationError: It is neither.
    """
    numbers = at.tolist() if isinstance(at, torch.Tensor) else at
    if (
        not isinstance(numbers, Sequence)
        or len(numbers) != 4
        or not all(type(number) is int and number >= 0 for number in numbers)
    ):
        raise ConfigurationError(
            f"at is {at!r}; it must be what a batch has under position_key: the pass, and how many "
            "batches and rows of it were given, and the rows of a batch"
        )
    pass_index, batches, rows, size = numbers
    return pass_index, batches, rows, size


def state_behind(
    at: tuple[int, int, int, int],
    opened: Sequence[StreamInfo],
    now: ResumeState | None,
    requested: Mapping[str, Any],
    *,
    furthest: int,
) -> ResumeState:
    """Return the state behind a batch.

    Args:
        at: The pass, the batches and rows of it, and the rows of a batch.
        opened: What each source found.
        now: Where the student is; None if only DataLoader workers know it.
        requested: How batches were asked for, as far as it is known here: fields of the state.
        furthest: The last pass that was begun: behind it the first one may have begun again.

    Raises:
        ConfigurationError: There is no such batch, or it was not given yet.
    """
    pass_index, batches, rows, size = at
    passes = opened[0].stream.passes
    if (
        pass_index >= passes
        or bool(batches) != bool(rows)
        or (batches and not size * (batches - 1) < rows <= size * batches)
    ):
        raise ConfigurationError(
            f"at is {list(at)}: {rows} rows in {batches} batches of pass {pass_index}, which is no "
            f"place in {passes} passes in batches of {size} rows"
        )
    if now is not None and (
        pass_index > furthest
        or (pass_index == now.pass_index == furthest and batches > now.batches)
    ):
        raise ConfigurationError(
            f"at is {list(at)}, behind batch {batches} of pass {pass_index}, but only {now.batches} "
            f"batches of pass {now.pass_index} were given"
        )
    before = [each.before for each in (now.positions or ())] if now is not None else []
    return ResumeState(
        pass_index=pass_index,
        batches=batches,
        rows=rows,
        positions=tuple(
            Position(
                pass_index=pass_index,
                sequence=rows // found.stream.rows_per_record,
                row=rows % found.stream.rows_per_record,
                before=_first(before[index] if before else (), pass_index),
            )
            for index, found in enumerate(opened)
        ),
        **{**requested, "batch_size": size},
    )


def _first(before: tuple[int, ...], passes: int) -> tuple[int, ...]:
    """The records of the first passes, if all of them are known."""
    return before[:passes] if len(before) >= passes else ()
