"""The stages of a shuffled pass over files: an order of rows -> rows of every teacher -> batches.

In place of `consumers/chain.py`, whose stages read from the first record to the last.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from tutelage.consumers.chain import PassOptions, share_of_budget
from tutelage.consumers.deal import Deal
from tutelage.consumers.position import Position, ResumeIndex
from tutelage.consumers.random_access.row_reader import RowReader
from tutelage.consumers.random_access.teacher_rows import TeacherRows
from tutelage.consumers.shuffle import Shuffle, ShuffledOrder
from tutelage.consumers.sources.base import Source, StreamInfo
from tutelage.consumers.sources.file import FileSource
from tutelage.consumers.stages.align import Aligned, AlignedEnd, Share
from tutelage.consumers.stages.align_ranks import NumberedRow
from tutelage.consumers.stages.chunk import chunk_of_nothing
from tutelage.consumers.stages.merge import Merge
from tutelage.consumers.stages.merge_stage import Merged
from tutelage.consumers.stages.prefetch import Prefetch
from tutelage.consumers.stats import StudentStats
from tutelage.schemas.errors import LengthMismatch


class ShuffleStage:
    """Reads and merges the rows of one batch after the other, in a shuffled order.

    Args:
        teachers: The rows of each teacher.
        opened: What each source found.
        merge: How keys are merged.
        options: How batches are made.
        shuffle: How rows are shuffled.
        pass_index: The pass.
        first_row: The rows of the pass that were given before.
        stats: Where the time is counted.

    Raises:
        LengthMismatch: The teachers differ in length.
    """

    def __init__(
        self,
        teachers: Sequence[TeacherRows],
        opened: Sequence[StreamInfo],
        merge: Merge,
        options: PassOptions,
        shuffle: Shuffle,
        *,
        pass_index: int,
        first_row: int,
        stats: StudentStats,
    ) -> None:
        self._teachers = teachers
        self._merge = merge
        self._options = options
        size, ranks, rank = options.batch_size, 1, 0
        if options.deal is not None:
            ranks, rank = options.deal.ranks, options.deal.rank
        # Places are dealt to ranks, not rows, so the order is the same for any number of them.
        self._deal = Deal(rank=rank, ranks=ranks, batch_size=size * ranks, unit=size)
        self._rows = _length(teachers, truncate=options.truncate)
        self._order = ShuffledOrder(
            shuffle,
            rows=self._rows,
            unit=max(found.stream.rows_per_record for found in opened),
            pass_index=pass_index,
        )
        self._place = first_row
        self._resume = tuple(
            ResumeIndex(start=Position(pass_index=pass_index), spans=()) for _ in teachers
        )
        self._end = AlignedEnd(positions=(Position(pass_index=pass_index + 1),) * len(teachers))
        self._stats = stats

    def poll(self, *, eager: bool = True) -> Merged | AlignedEnd:
        """Return the next batch, or the end of the pass."""
        stop = min(self._rows, self._place + self._deal.batch_size)
        count = stop - self._place
        if not count or (self._options.drop_last and count < self._deal.batch_size):
            return self._end
        rows = [
            row
            for start, end in self._deal.parts(self._place, stop)
            for row in self._order.rows(start, end)
        ]
        self._place = stop
        chunks = [
            teacher.chunk(rows, self._options.batch_bytes)
            if rows
            else chunk_of_nothing(teacher.description, Position())
            for teacher in self._teachers
        ]
        aligned = Aligned(
            first_row=NumberedRow.of(0, rows.__getitem__),
            rows=len(rows),
            shares=tuple(Share(chunk=chunk, start=0, rows=len(rows)) for chunk in chunks),
            global_rows=count,
            ranks=self._deal.ranks,
        )
        began = time.perf_counter()
        size = self._options.batch_size
        nbytes = self._merge.measure(aligned, size)[1] if rows else 0
        batches = self._merge.batches(aligned, size)
        self._stats.merge_s += time.perf_counter() - began
        return Merged(batches=batches, resume=self._resume, nbytes=nbytes, global_rows=count)

    def close(self) -> None:
        """Close the files."""
        for teacher in self._teachers:
            teacher.close()


class ShuffledChain:
    """The stages of a shuffled pass, read ahead; what `Chain` is for a pass in order.

    Args:
        sources: The sources, which must be files.
        opened: What they found.
        merge: How keys are merged.
        options: How batches are made.
        shuffle: How rows are shuffled.
        pass_index: The pass.
        first_row: The rows of the pass that were given before.
        stats: Where to count what is merged.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        opened: Sequence[StreamInfo],
        merge: Merge,
        options: PassOptions,
        shuffle: Shuffle,
        *,
        pass_index: int,
        first_row: int,
        stats: StudentStats,
    ) -> None:
        self._count = len(sources)
        teachers: list[TeacherRows] = []
        try:
            teachers.extend(TeacherRows([_reader(source, pass_index)]) for source in sources)
            stage = ShuffleStage(
                teachers,
                opened,
                merge,
                options,
                shuffle,
                pass_index=pass_index,
                first_row=first_row,
                stats=stats,
            )
        except BaseException:
            for teacher in teachers:
                teacher.close()
            raise
        self._merged = Prefetch[Merged | AlignedEnd](
            stage,
            budget=options.prefetch,
            size_of=share_of_budget(options),
            name="tutelage-shuffle",
        )

    def poll(self) -> Merged | AlignedEnd | None:
        """Return the next batch, or the end of the pass; None if it is not ready in a moment.

        Raises:
            Closed: `close` was called.
            BaseException: What a stage raised.
        """
        return self._merged.poll()

    @property
    def ready(self) -> int:
        """Batches that can be taken without waiting. Safe in any thread, as what follows is."""
        return sum(isinstance(item, Merged) for item in self._merged.kept())

    @property
    def queued_bytes(self) -> list[int]:
        """Per teacher: bytes of the rows that were read and are not merged yet."""
        return [0] * self._count

    @property
    def waiting_for(self) -> str:
        """What the next batch waits for, in words."""
        return "the next batch to be read"

    @property
    def dropped(self) -> list[dict[str, int]]:
        """Per teacher: the duplicates and zombies' records, of which a file has none."""
        return [{"duplicates": 0, "zombies": 0} for _ in range(self._count)]

    def close(self) -> None:
        """End the thread and close the files. May be called twice."""
        self._merged.close()


def _reader(source: Source, pass_index: int) -> RowReader:
    assert isinstance(source, FileSource), "it was checked"
    return RowReader(
        source.path,
        name=source.name,
        pass_index=pass_index,
        verify=source.verify,
        limits=source.limits,
        keep_index=False,
    )


def _length(teachers: Sequence[TeacherRows], *, truncate: bool) -> int:
    lengths = [teacher.rows for teacher in teachers]
    if len(set(lengths)) > 1 and not truncate:
        named = ", ".join(f"{teacher.name} has {teacher.rows} rows" for teacher in teachers)
        raise LengthMismatch(
            f"the teachers differ in length: {named}; ask for on_length_mismatch='truncate' to end "
            "at the shortest"
        )
    return min(lengths)
