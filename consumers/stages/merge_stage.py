"""The same rows of every teacher -> merged batches."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from tutelage.consumers.position import ResumeIndex
from tutelage.consumers.stages.align import Aligned, AlignedEnd
from tutelage.consumers.stages.align_stage import AlignStage
from tutelage.consumers.stages.batches import Batches
from tutelage.consumers.stages.merge import Merge
from tutelage.consumers.stats import StudentStats


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """Merged batches.

    Args:
        batches: The batches.
        resume: For each teacher, the position behind each of their rows.
        nbytes: Bytes of all of them.
        global_rows: The rows of the same batches that all ranks have together.
    """

    batches: Batches = field(repr=False)
    resume: tuple[ResumeIndex, ...] = field(repr=False)
    nbytes: int
    global_rows: int


class MergeStage:
    """Merges the rows of all teachers.

    Args:
        aligned: Gives the same rows of every teacher.
        merge: Merges them.
        batch_size: Rows in a batch.
        stats: Where the time is counted.
    """

    def __init__(
        self, aligned: AlignStage, merge: Merge, batch_size: int, stats: StudentStats
    ) -> None:
        self._aligned = aligned
        self._merge = merge
        self._size = batch_size
        self._stats = stats
        # Rows that would have taken too much memory together with those merged last.
        self._rest: Aligned | None = None

    def poll(self, *, eager: bool = True) -> Merged | AlignedEnd | None:
        """Return the next batches, as many as may be merged at once, or the end of the pass."""
        aligned = self._rest if self._rest is not None else self._aligned.poll()
        if not isinstance(aligned, Aligned):
            return aligned
        began = time.perf_counter()
        nbytes = 0
        self._rest = None
        if aligned.rows:
            rows, nbytes = self._merge.measure(aligned, self._size)
            aligned, self._rest = aligned.split(rows)
        batches = self._merge.batches(aligned, self._size)
        self._stats.merge_s += time.perf_counter() - began
        resume = tuple(share.resume for share in aligned.shares)
        return Merged(
            batches=batches, resume=resume, nbytes=nbytes, global_rows=aligned.global_rows
        )

    def close(self) -> None:
        """End the streams."""
        self._aligned.close()
