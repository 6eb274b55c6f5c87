"""A student's passes, one behind the other, as a trainer takes them. Knows no trainer."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any

from tutelage import Shuffle, Student
from tutelage.integrations.training_batch import without_rows
from tutelage.schemas.errors import ConfigurationError

#: The key of where a batch ends.
POSITION = "tutelage.position"
_WEIGHTS = "tutelage.weights"
# When all passes were given, they are shuffled with this added to the seed: far from the seeds that
# people choose. Seeds have 63 bits.
_NEXT_ROUND = 1 << 32
_SEEDS = 1 << 63


def passes(
    student: Student,
    *,
    batch_size: int,
    drop_last: bool,
    shuffle: Shuffle | None,
    pass_batches: int | None,
    key: str,
    mask_key: str,
) -> Generator[dict[str, Any], None, None]:
    """Give pass after pass, from where the student is, until passes are empty.

    A batch without rows gets one that does not count, so that all ranks train in every step.

    Args:
        student: The student.
        batch_size: Rows of a batch of one rank.
        drop_last: Whether a shorter last batch is left out.
        shuffle: How rows are shuffled; None for the teachers' order.
        pass_batches: How many batches a pass has, if that is to be checked.
        key: The key of the teacher's logits.
        mask_key: The key of the mask of positions that count.

    Yields:
        Batches, with the key `POSITION`.

    Raises:
        ConfigurationError: A pass has another number of batches; or as `Student.knowledge`.
    """
    state = student.state_dict()
    index, times = state["pass_index"], _times_given(state, shuffle)
    # Behind a state at the end of a pass there is nothing in the first one.
    empty = 0
    while empty < 2:
        empty, given = empty + 1, 0
        batches = student.knowledge(
            batch_size,
            drop_last=drop_last,
            position_key=POSITION,
            weight_key=_WEIGHTS,
            pad_empty=True,
            shuffle=_again(shuffle, times),
        )
        try:
            for batch in batches:
                empty = 0
                index, given, *_ = batch[POSITION].tolist()
                if not batch.pop(_WEIGHTS).all():
                    without_rows(batch, key=key, mask_key=mask_key)
                yield batch
        finally:
            batches.close()
        if given and pass_batches not in (None, given):
            raise ConfigurationError(
                f"a pass has {given} batches, and {pass_batches} by the number of rows that was "
                "given; give rows as they are"
            )
        times += index + 1 == student.passes


def _again(shuffle: Shuffle | None, times: int) -> Shuffle | None:
    """How rows are shuffled when all passes were given so many times."""
    if shuffle is None:
        return None
    return replace(shuffle, seed=(shuffle.seed + times * _NEXT_ROUND) % _SEEDS)


def _times_given(state: Mapping[str, Any], shuffle: Shuffle | None) -> int:
    """How many times all passes were given before a state, by the seed that it has."""
    if shuffle is None or "shuffle" not in state:
        return 0
    times, other = divmod((state["shuffle"][0] - shuffle.seed) % _SEEDS, _NEXT_ROUND)
    return 0 if other else times
