"""Which rank of its training program a student is: given by the user, or found."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch

from tutelage.schemas.errors import ConfigurationError

#: `"auto"`, a rank and the number of ranks, or a dimension of a device mesh.
ShardArgument = Any

_WANTED = (
    'shard is {!r}; it must be "auto", (rank, ranks) with 0 <= rank < ranks, or one dimension of a '
    'device mesh, such as mesh["dp"]'
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One rank of several.

    Args:
        rank: This rank, from 0.
        ranks: How many there are.
    """

    rank: int = 0
    ranks: int = 1


def check_shard(given: ShardArgument) -> ShardArgument:
    """Check the argument `shard` of a student, as far as it can be known when it is made.

    Args:
        given: The argument.

    Returns:
        `"auto"`, None, or a `Shard`.

    Raises:
        ConfigurationError: It is none of these.
    """
    if given is None or given == "auto":
        return given
    if hasattr(given, "get_local_rank") and hasattr(given, "mesh"):
        if given.ndim != 1:
            raise ConfigurationError(
                f"shard is a device mesh of {given.ndim} dimensions; name the one over which data "
                'are parallel, such as mesh["dp"]'
            )
        return Shard(rank=given.get_local_rank(), ranks=given.size())
    if (
        not isinstance(given, tuple)
        or len(given) != 2
        or not all(type(number) is int for number in given)
        or not 0 <= given[0] < given[1]
    ):
        raise ConfigurationError(_WANTED.format(given))
    return Shard(rank=given[0], ranks=given[1])


def found_shard(checked: ShardArgument) -> Shard:
    """Return the shard; for `"auto"` that of torch's process group, or else of torchrun.

    Args:
        checked: What `check_shard` returned. None is one rank that reads everything.

    Raises:
        ConfigurationError: RANK and WORLD_SIZE in the environment are no rank of some.
    """
    if isinstance(checked, Shard):
        return checked
    if checked is None:
        return Shard()
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return Shard(rank=distributed.get_rank(), ranks=distributed.get_world_size())
    rank, ranks = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    try:
        return check_shard((int(rank), int(ranks)))  # type: ignore[no-any-return]
    except (ValueError, ConfigurationError):
        raise ConfigurationError(
            f"RANK is {rank!r} and WORLD_SIZE is {ranks!r} in the environment, which is no rank of "
            "some; unset them, or give Student(shard=(rank, ranks))"
        ) from None
