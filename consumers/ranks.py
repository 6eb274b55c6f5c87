"""What a student knows of the other ranks of its training program."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from tutelage.consumers.deal import Deal
from tutelage.consumers.sources.base import Source
from tutelage.consumers.stats import StreamStats

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


def say_amplification(
    deal: Deal | None, sources: Sequence[Source], stats: Sequence[StreamStats]
) -> None:
    """Log, for each teacher, that this rank reads more than its share, if it does.

    Args:
        deal: Which rows are this rank's; None if there is one rank.
        sources: The sources.
        stats: Each stream's counts.
    """
    for source, counts in zip(sources, stats, strict=True):
        if deal is not None and counts.read_amplification > 1:
            log.warning(
                "rank %d of %d reads %.1f times its share of %s; it reads just that if the number of "
                "partitions is a multiple of the ranks, and the rows of a record divide the %d rows "
                "that a rank has of a batch",
                deal.rank,
                deal.ranks,
                counts.read_amplification,
                source.name,
                deal.share,
            )
