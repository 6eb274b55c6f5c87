"""What gives the batches of one pass: a chain that reads in order, or one that shuffles files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tutelage.consumers.batch_request import BatchRequest
from tutelage.consumers.chain import Chain, PassOptions
from tutelage.consumers.random_access.shuffled_chain import ShuffledChain
from tutelage.consumers.resume_state import ResumeState
from tutelage.consumers.sources.base import Source, StreamInfo
from tutelage.consumers.stages.align import AlignedEnd
from tutelage.consumers.stages.merge import Merge
from tutelage.consumers.stages.merge_stage import Merged
from tutelage.consumers.stats import StreamStats, StudentStats


class PassChain(Protocol):
    """The stages of one pass. All but `poll` and `close` are safe in any thread."""

    def poll(self) -> Merged | AlignedEnd | None:
        """Return the next batches, or the end of the pass; None if they are not ready in a moment.

        Raises:
            Closed: `close` was called.
            BaseException: What a stage raised.
        """

    @property
    def ready(self) -> int:
        """Batches that can be taken without waiting."""

    @property
    def queued_bytes(self) -> list[int]:
        """Per teacher: bytes of the rows that were read and are not merged yet."""

    @property
    def waiting_for(self) -> str:
        """What the next batch waits for, in words."""

    @property
    def dropped(self) -> list[dict[str, int]]:
        """Per teacher: the duplicates and zombies' records that were dropped in this pass."""

    def close(self) -> None:
        """End all threads and wait for them. May be called twice."""


def begin_chain(
    request: BatchRequest,
    options: PassOptions,
    state: ResumeState,
    merge: Merge,
    *,
    sources: Sequence[Source],
    opened: Sequence[StreamInfo],
    stats: StudentStats,
    stream_stats: Sequence[StreamStats],
) -> PassChain:
    """Start reading a pass from a state on.

    Args:
        request: What was asked for.
        options: How batches are made.
        state: Where reading begins.
        merge: How keys are merged.
        sources: The sources, which are open.
        opened: What they found.
        stats: Where to count what is merged.
        stream_stats: Where to count what comes of each teacher.

    Raises:
        LengthMismatch: Shuffled files differ in length.
    """
    if request.shuffle is not None:
        return ShuffledChain(
            sources,
            opened,
            merge,
            options,
            request.shuffle,
            pass_index=state.pass_index,
            first_row=state.rows,
            stats=stats,
        )
    return Chain(
        sources,
        opened,
        state.positions_of(len(sources)),
        merge,
        options,
        first_row=state.rows,
        stats=stats,
        stream_stats=stream_stats,
    )
