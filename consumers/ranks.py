"""What a student knows of the other ranks of its training program."""

from __future__ import annotations

import logging

import torch

log = logging.getLogger(__name__)


def warn_of_ranks() -> None:
    """Log a warning if several ranks train together: each student reads, and gives, every row.

    Ranks that train on identical batches make no more progress than one, and nothing else shows it.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    world = distributed.get_world_size()
    if world > 1:
        log.warning(
            "rank %d of %d reads every row of its teachers, and so does every other rank; with "
            'Student(shard="auto") each rank gets rows of its own',
            distributed.get_rank(),
            world,
        )
