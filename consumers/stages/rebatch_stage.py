"""Records in order -> chunks of whole batches, and the end of the pass."""

from __future__ import annotations

import time

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
    """

    def __init__(self, records: OrderStage, rebatch: Rebatch, stats: StreamStats) -> None:
        self._records = records
        self._rebatch = rebatch
        self._stats = stats
        self._end: PassEnd | None = None
        self._failed: BaseException | None = None

    def poll(self, *, eager: bool = True) -> Chunk | PassEnd | None:
        """Return the next chunk, which is full unless somebody waits for it or nothing more comes.

        Whole batches before an error are given before the error is raised.
        """
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
