"""The chunks of all teachers -> the same rows of each."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tutelage.consumers.stages.align import Align, Aligned, AlignedEnd
from tutelage.consumers.stages.chunk import Chunk
from tutelage.consumers.stages.order import PassEnd
from tutelage.consumers.stages.prefetch import Prefetch
from tutelage.consumers.stats import StreamStats
from tutelage.schemas.errors import LengthMismatch

# How long to read on for the teachers' lengths, so that the error for different lengths names them.
_LENGTHS_WITHIN_S = 5.0


class AlignStage:
    """Takes the same rows of every teacher.

    Args:
        streams: Each teacher's chunks.
        align: Takes their rows.
        stats: Where the time that each teacher is waited for is counted.
    """

    def __init__(
        self,
        streams: Sequence[Prefetch[Chunk | PassEnd]],
        align: Align,
        stats: Sequence[StreamStats],
    ) -> None:
        self._streams = streams
        self._align = align
        self._stats = stats

    def poll(self, *, eager: bool = True) -> Aligned | AlignedEnd | None:
        """Return as many batches as all teachers have, or the end of the pass.

        Raises:
            LengthMismatch: The teachers differ in length; it names every length that is known soon.
        """
        while starving := self._align.starving():
            for teacher in starving:
                if not self._has_brought(teacher, starving):
                    return None
        try:
            return self._align.pop()
        except LengthMismatch:
            self._read_on_to_ends()
            raise self._align.mismatch() from None

    def _has_brought(self, teacher: int, starving: Sequence[int]) -> bool:
        """Take a teacher's next chunk, or its end, if it comes within a moment."""
        began, late = time.perf_counter(), [each for each in starving if self._is_late(each)]
        item = self._streams[teacher].poll()
        seconds = time.perf_counter() - began
        # A teacher that is late beside the one that is polled is waited for just as long.
        for each in {teacher, *(each for each in late if self._is_late(each))}:
            self._stats[each].wait_s += seconds
        if item is None:
            return False
        if isinstance(item, Chunk):
            self._stats[teacher].load_s += item.load_s
        self._align.push(teacher, item)
        return True

    def _is_late(self, teacher: int) -> bool:
        return self._streams[teacher].is_empty

    def _read_on_to_ends(self) -> None:
        deadline = time.monotonic() + _LENGTHS_WITHIN_S
        for teacher, stream in enumerate(self._streams):
            while not self._align.has_ended(teacher) and time.monotonic() < deadline:
                try:
                    item = stream.poll()
                except BaseException:  # the lengths are what matters now
                    break
                if isinstance(item, PassEnd):
                    self._align.push(teacher, item)

    def close(self) -> None:
        """End the streams."""
        for stream in self._streams:
            stream.stop()
        for stream in self._streams:
            stream.close()
