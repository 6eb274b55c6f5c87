"""Which of the student's positions belong to which of the target's.

Shapes, lengths and masks enter; indices of positions leave. Knows nothing of logits. Values (of
lengths and masks) are not looked at while `torch.compile` traces; shapes always are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from tutelage.consumers.sparse_target import SparseTarget
from tutelage.schemas.errors import ConfigurationError

# Which positions of the student and which of the target, int64 `[n]`, flattened; None for all.
Selection = tuple[torch.Tensor | None, torch.Tensor | None]


def select_dense(
    student: Sequence[int], target: Sequence[int], mask: torch.Tensor | None
) -> Selection:
    """Return the positions that count, for a target with logits.

    Args:
        student: The shape of the student's positions: that of the logits without the last.
        target: Likewise of the target: the same, or `(positions,)` for those of the mask alone.
        mask: As `student`; nonzero where a position counts. None for all.

    Raises:
        ConfigurationError: The shapes, or the mask and the target, do not fit together.
    """
    if mask is None:
        if tuple(student) != tuple(target):
            raise ConfigurationError(
                f"the student has logits at {list(student)} positions, the target at {list(target)}; "
                f"without a mask they must be the same"
            )
        return None, None
    kept = _kept(student, mask)
    if tuple(target) == tuple(student):
        index = kept.flatten().nonzero().squeeze(1)
        return index, index
    if len(target) != 1:
        raise ConfigurationError(
            f"the student has logits at {list(student)} positions, the target at {list(target)}; it "
            f"must have them at the same, or [positions] for those of the mask alone"
        )
    if not torch.compiler.is_compiling() and int(kept.sum()) != target[0]:
        raise ConfigurationError(
            f"the mask keeps {int(kept.sum())} positions, but the target has {target[0]}"
        )
    return _first_true(kept, target[0]), None


def select_sparse(
    student: Sequence[int], target: SparseTarget, mask: torch.Tensor | None
) -> Selection:
    """Return the positions that count, for a sparse target.

    Args:
        student: The shape of the student's positions: `(positions,)`, of all rows together, or
            `(rows, T)`, in which rows are padded to the longest as `target.pad_left` says. A longer
            T without a mask is refused: the teacher may have left out positions, and then the first
            ones of a row are not those that it kept.
        target: The target: with all T positions of each row, or with those of the mask.
        mask: As `student`; nonzero where a position counts. None for those that the target has.

    Raises:
        ConfigurationError: The shapes, or the mask and the target, do not fit together.
    """
    if len(student) == 1:
        return _select_flat(student[0], target, mask)
    found = target.positions
    rows, width = student[0], math.prod(student[1:])
    if rows != len(target):
        raise ConfigurationError(
            f"the student has logits for {rows} rows, the target has {len(target)}: {target}"
        )
    if mask is not None:
        kept = _kept(student, mask).reshape(rows, -1)
        if found == kept.numel():
            _check_lengths(
                target, torch.full_like(target.lengths, width), "the student's row", "has"
            )
            index = kept.flatten().nonzero().squeeze(1)
            return index, index
        _check_lengths(target, kept.sum(1), "the mask", "keeps")
        return _first_true(kept, found), None
    if -1 not in target.shape and tuple(student[1:]) != target.shape:
        raise ConfigurationError(
            f"the student has {list(student[1:])} positions a row, the target {list(target.shape)}; "
            f"give a mask if they are part of the student's"
        )
    if not torch.compiler.is_compiling() and found and int(target.lengths.max()) != width:
        row = int(target.lengths.argmax())
        raise ConfigurationError(
            f"row {row} of the target, the longest, has {int(target.lengths[row])} positions, but "
            f"the student's rows have {width}. If the teacher left out positions, give the mask of "
            "those that it kept; if rows are padded further, give the mask of those that are real"
        )
    return (None if found == rows * width else _places(target, width)), None


def _select_flat(places: int, target: SparseTarget, mask: torch.Tensor | None) -> Selection:
    """Return the positions that count where the student's have no rows."""
    found = target.positions
    if mask is not None:
        kept = _kept((places,), mask)
        if found == places:
            index = kept.nonzero().squeeze(1)
            return index, index
        if not torch.compiler.is_compiling() and int(kept.sum()) != found:
            raise ConfigurationError(
                f"the mask keeps {int(kept.sum())} of {places} positions, but the target has "
                f"{found}: {target}"
            )
        return _first_true(kept, found), None
    if places != found:
        raise ConfigurationError(
            f"the student has logits at {places} positions, the target at {found}: {target}"
        )
    return None, None


def _kept(student: Sequence[int], mask: torch.Tensor) -> torch.Tensor:
    """Return the mask as bools."""
    if tuple(mask.shape) != tuple(student):
        raise ConfigurationError(
            f"the mask has the shape {list(mask.shape)}; the student's logits have positions of the "
            f"shape {list(student)}"
        )
    return mask != 0


def _first_true(kept: torch.Tensor, count: int) -> torch.Tensor:
    """Return the indices of `count` true values: as nonzero(), but without waiting for the device."""
    return torch.argsort((~kept).flatten().byte(), stable=True)[:count]


def _places(target: SparseTarget, width: int) -> torch.Tensor:
    """Return where the positions of ragged rows lie in rows padded to `width`."""
    lengths = target.lengths
    rows = torch.repeat_interleave(
        torch.arange(len(target), device=lengths.device), lengths, output_size=target.positions
    )
    starts = lengths.cumsum(0) - lengths
    within = torch.arange(target.positions, device=lengths.device) - starts[rows]
    if target.pad_left:
        within = within + (width - lengths)[rows]
    return rows * width + within


def _check_lengths(target: SparseTarget, expected: torch.Tensor, whose: str, verb: str) -> None:
    """Raise, naming the first row, where a target has other lengths than expected."""
    if torch.compiler.is_compiling():
        return
    differs = target.lengths != expected
    if bool(differs.any()):
        row = int(differs.nonzero()[0])
        raise ConfigurationError(
            f"row {row} of the target has {int(target.lengths[row])} positions, but {whose} {verb} "
            f"{int(expected[row])}; a target has either all positions of each row or exactly those "
            f"of the mask"
        )
