"""Which run all ranks of a training program write: rank 0 looks, and tells the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tutelage.consumers.shard import Shard
from tutelage.schemas.errors import ConfigurationError, TransportError


def agreed_run(shard: Shard, begin: Callable[[], str]) -> str:
    """Return the id of the run that rank 0 begins or continues, on all ranks.

    Every rank of torch's process group calls it. The group's own timeout limits the wait.

    Args:
        shard: Which rank this is.
        begin: Begins or continues a run, and returns its id. Called on rank 0.

    Raises:
        ConfigurationError: There is no process group of these ranks.
        TransportError: Rank 0 could not begin; raised on the others.
        Exception: What `begin` raised; on rank 0.
    """
    distributed = torch.distributed
    world = 0
    if distributed.is_available() and distributed.is_initialized():
        world = distributed.get_world_size()
    if world != shard.ranks:
        found = f"torch's process group has {world} ranks" if world else "there is no process group"
        raise ConfigurationError(
            f"rank {shard.rank} of {shard.ranks} cannot ask the other ranks which run they write: "
            f"{found}. Give run_id, the same on all ranks, or call "
            f"torch.distributed.init_process_group before, with {shard.ranks} ranks"
        )
    run_id, failure = "", None
    if shard.rank == 0:
        try:
            run_id = begin()
        except Exception as error:
            failure = error
    said = (shard.rank, run_id, "" if failure is None else f"{type(failure).__name__}: {failure}")
    heard: list[Any] = [None] * world
    distributed.all_gather_object(heard, said)
    if failure is not None:
        raise failure
    if sorted(rank for rank, _, _ in heard) != list(range(world)):
        raise ConfigurationError(
            f"the shards of the {world} ranks of torch's process group are of the ranks "
            f"{[rank for rank, _, _ in heard]}; each must be another"
        )
    _, run_id, why = min(heard)
    if why:
        raise TransportError(f"rank 0 could not begin or continue its run of queries: {why}")
    return str(run_id)
