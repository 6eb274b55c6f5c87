"""A name, a pass and a row -> the row's seed, whichever batch or worker the row is in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xxhash

from tutelage.schemas.arguments import check_text, check_whole_number
from tutelage.schemas.errors import ConfigurationError
from tutelage.schemas.splitmix import splitmix


def seeds_for(name: str, pass_index: int, rows: int | Sequence[int] | torch.Tensor) -> torch.Tensor:
    """Return a seed for each row, to be stored as a key.

    Each is a function of the name, the pass and the row alone: SplitMix64 ("Fast Splittable
    Pseudorandom Number Generators", OOPSLA 2014) at the place that the row's number names. Batches,
    workers, restarts and the order of rows change nothing. No two rows of a pass have the same
    seed.

    Args:
        name: What tells this stream of seeds from others, such as the data set's name and a number
            that is chosen for the experiment.
        pass_index: The pass, from 0. Each has seeds of its own.
        rows: The rows' numbers in the pass, an integer sequence or tensor `[n]`; or how many there
            are, for rows 0 to `rows` - 1.

    Returns:
        int64 `[n]`, on the CPU.

    Raises:
        ConfigurationError: An argument has the wrong type or value.
    """
    name = check_text("name", name)
    pass_index = check_whole_number("pass_index", pass_index, least=0)
    number = _numbers(rows).astype(np.uint64)
    start = xxhash.xxh3_64_intdigest(f"{pass_index}\0{name}".encode())
    return torch.from_numpy(splitmix(start, number).view(np.int64))


def _numbers(
    rows: int | Sequence[int] | torch.Tensor,
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The rows' numbers, checked."""
    if isinstance(rows, int):
        return np.arange(check_whole_number("rows", rows, least=0))
    try:
        given = np.asarray(rows)
    except (TypeError, ValueError, RuntimeError):
        given = np.zeros((), dtype=np.float64)
    if given.ndim == 1 and not given.size:
        return np.zeros(0, dtype=np.int64)
    if given.ndim != 1 or given.dtype.kind not in "iu" or int(given.min()) < 0:
        raise ConfigurationError(
            f"rows is {rows!r}; it must be the rows' numbers, from 0, in one dimension, or how many "
            "rows there are"
        )
    return given.astype(np.int64)
