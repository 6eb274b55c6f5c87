"""Opens all teachers' streams and decides how they are merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.consumers.compatibility import check_streams, display_names
from tutelage.consumers.ranks import warn_of_ranks
from tutelage.consumers.settings import Settings
from tutelage.consumers.sources.base import Source, StreamInfo
from tutelage.consumers.stages.merge import Merge
from tutelage.transport.status import Status


def open_streams(
    sources: Sequence[Source], settings: Settings, doing: Status, saved: Mapping[str, Any] | None
) -> tuple[list[StreamInfo], Merge]:
    """Wait for all streams, and check that they can be merged.

    Args:
        sources: The sources, in the order of merging.
        settings: The student's settings.
        doing: Receives the status: which source is waited for.
        saved: The state that was loaded, if there is one. Its runs are read.

    Returns:
        What each source found, and how the streams are merged.

    Raises:
        WaitTimeout: A stream did not appear in time.
        LengthMismatch, RunMismatch, MergeError: The streams do not belong together, or cannot be
            merged as asked.
    """
    if settings.shard is None:
        warn_of_ranks()
    for source, part in zip(sources, (saved or {}).get("sources", ()), strict=False):
        run_id, identity = part.get("run_id"), part.get("identity")
        if isinstance(run_id, str) and isinstance(identity, Mapping):
            source.choose_run(run_id, identity)
    opened = []
    for source in sources:
        source.is_shared = settings.is_dealt
        doing.now(f"waiting for {source.name} to appear", begun=False)
        opened.append(source.open(settings.timeout_s))
    doing.now("all teachers' streams are there")
    check_streams(opened, allow_other_inputs=settings.allow_other_inputs)
    merge = Merge(
        display_names(opened),
        [found.description for found in opened],
        settings.strategies,
        sample_id=settings.sample_id,
        ragged=settings.ragged,
        skips_unanswered=settings.skips_unanswered,
        pin_memory=settings.pin_memory,
        batch_bytes=settings.limits.batch_bytes,
    )
    return opened, merge
