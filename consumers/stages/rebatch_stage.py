"""Records in order -> chunks of whole batches, and the end of the pass."""

from __future__ import annotations

import time
from dataclasses import replace

from tutelage.consumers.stages.chunk import Chunk
from tutelage.consumers.stages.order import PassEnd
from tutelage.consumers.stages.order_stage import OrderStage
from tutelage.consumers.stages.rebatch import Rebatch
from tutelage.consumers.stats import StreamStats


class RebatchStage:
    """Cuts the records of one teacher into chunks.

    Args:
        records: Gives the records in order.
        rebatch: Cuts them.
        stats: Where the time is counted.
        nothing: A chunk without rows, for a rank of several: it is given when the first rows of a
            batch come, so that the rank knows that the batch before is whole on all ranks.
    """

    def __init__(
        self,
        records: OrderStage,
        rebatch: Rebatch,
        stats: StreamStats,
        nothing: Chunk | None = None,
    ) -> None:
        self._records = records
        self._rebatch = rebatch
        self._stats = stats
        self._nothing = nothing
        # Whether it was said that there are rows of the next batch.
        self._told = False
        self._end: PassEnd | None = None
        self._failed: BaseException | None = None

    def poll(self, *, eager: bool = True) -> Chunk | PassEnd | None:
        """Return the next chunk, which is full unless somebody waits for it or nothing more comes.

        Whole batches before an error are given before the error is raised.
        """
        chunk = self._next(eager=eager)
        if self._nothing is None or isinstance(chunk, PassEnd):
            return chunk
        pending = self._rebatch.pending_rows
        if chunk is None and (self._told or not pending or not eager):
            return None
        self._told = pending > 0
        return replace(chunk or self._nothing, pending=pending)

    def _next(self, *, eager: bool) -> Chunk | PassEnd | None:
        rebatch = self._rebatch
        if eager and rebatch.has_whole_batches:
            # They came while nobody waited. The next record may be a long time away.
            rebatch.flush()
        if (chunk := rebatch.pop()) is not None:
            return chunk
        if self._failed is not None:
            raise self._failed
        if self._end is not None:
            return self._end
        try:
            item = self._records.poll(eager=eager)
            if item is not None:
                began = time.perf_counter()
                rebatch.push(item)
                self._stats.decode_s += time.perf_counter() - began
        except BaseException as error:  # whatever it is, it comes behind what is whole
            self._failed = error
            item = None
        if isinstance(item, PassEnd):
            self._end = item
        elif (eager or item is None) and rebatch.has_whole_batches:
            rebatch.flush()
        return rebatch.pop()

    def close(self) -> None:
        """Stop reading."""
        self._records.close()
