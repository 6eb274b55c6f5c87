"""One teacher's rows of a batch: from one file, or from several that lie one behind the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from tutelage.consumers.random_access.batch_rows import BatchRows
from tutelage.consumers.random_access.row_reader import RowReader
from tutelage.consumers.stages.chunk import Chunk
from tutelage.schemas.errors import DescriptionChanged
from tutelage.schemas.record import Description


class TeacherRows:
    """The rows of some files, numbered through.

    Args:
        files: The files, at least one.

    Raises:
        DescriptionChanged: The files hold different keys, dtypes or shapes.
    """

    def __init__(self, files: Sequence[RowReader]) -> None:
        self.files = list(files)
        first = files[0]
        for other in files[1:]:
            if other.info.description != first.info.description:
                raise DescriptionChanged(
                    f"{other.name} holds {other.info.description}, but {first.name} holds "
                    f"{first.info.description}; files that lie one behind the other must hold the "
                    "same keys, dtypes and shapes"
                )
        # The row behind the last of each file.
        self._stops = list(accumulate(file.rows for file in files))

    @property
    def rows(self) -> int:
        """The rows of all files."""
        return self._stops[-1]

    @property
    def name(self) -> str:
        """The files' names, for messages."""
        return " + ".join(file.name for file in self.files)

    @property
    def description(self) -> Description:
        """Key -> dtype and row shape."""
        return self.files[0].info.description

    def chunk(self, rows: Sequence[int], batch_bytes: int) -> Chunk:
        """Read rows.

        Args:
            rows: Their numbers, each from 0 to `self.rows - 1`, in the order of the batch.
            batch_bytes: The memory that they may take.

        Returns:
            The rows in this order.

        Raises:
            BatchTooLarge: They take more memory than they may.
            DataError: A record is damaged.
        """
        into = BatchRows(self.description, len(rows), batch_bytes)
        # Sorted, so that each record is looked up once.
        wanted = sorted(zip(rows, range(len(rows)), strict=True))
        if len(self.files) == 1:
            self.files[0].read(wanted, into)
            return into.chunk()
        place = 0
        while place < len(wanted):
            number = bisect_right(self._stops, wanted[place][0])
            begin = self._stops[number - 1] if number else 0
            stop = place
            while stop < len(wanted) and wanted[stop][0] < self._stops[number]:
                stop += 1
            self.files[number].read([(row - begin, at) for row, at in wanted[place:stop]], into)
            place = stop
        return into.chunk()

    def close(self) -> None:
        """Close the files."""
        for file in self.files:
            file.close()
