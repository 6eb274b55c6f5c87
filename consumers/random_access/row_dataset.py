"""Rows of one or several teachers as a map-style torch dataset: indices in, merged batches out."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

# Every DataLoader worker seeds it. Imported in a forked worker, it sometimes failed in Python's own
# import lock (KeyError), and the worker died.
import numpy.random  # noqa: F401
from torch.utils.data import Dataset

from tutelage.consumers.compatibility import display_names
from tutelage.consumers.random_access.rows import Row, RowBatch
from tutelage.consumers.random_access.teacher_rows import TeacherRows
from tutelage.consumers.settings import Settings
from tutelage.consumers.stages.align import Aligned, Share
from tutelage.consumers.stages.batches import Batch
from tutelage.consumers.stages.merge import Merge
from tutelage.consumers.stages.sparse_merge import is_sparse
from tutelage.schemas.errors import (
    ConfigurationError,
    LengthMismatch,
    MergeError,
    QueryUnanswered,
    SampleMismatch,
)
from tutelage.schemas.record import Description

Self = TypeVar("Self", bound="RowDataset")


class RowDataset(Dataset[Row]):
    """The base of `KnowledgeFile` and `KnowledgeFiles`.

    Args:
        teachers: The rows of each teacher. They are closed where this raises.
        settings: How their keys are merged and given.

    Raises:
        MergeError: The teachers' keys cannot be merged as asked.
    """

    def __init__(self, teachers: Sequence[TeacherRows], settings: Settings) -> None:
        super().__init__()
        self._teachers = list(teachers)
        self._settings = settings
        # Teachers of different length were refused, unless the shortest decides.
        self._length = min(teacher.rows for teacher in teachers)
        try:
            self._merge = self._made_merge()
        except BaseException:
            self.close()
            raise
        self._ragged_keys = frozenset(
            spec.key
            for spec in self._merge.description.specs
            if spec.ragged and not is_sparse(spec)
        )

    def _made_merge(self) -> Merge:
        """Decide how keys are merged: here, and again where the dataset is unpickled."""
        return Merge(
            display_names([teacher.files[0].info for teacher in self._teachers]),
            [teacher.description for teacher in self._teachers],
            self._settings.strategies,
            sample_id=self._settings.sample_id,
            ragged=self._settings.ragged,
            skips_unanswered=self._settings.skips_unanswered,
            batch_bytes=self._settings.limits.batch_bytes,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_merge": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._merge = self._made_merge()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all files in this process. May be called twice. Workers close their own."""
        for teacher in self._teachers:
            teacher.close()

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Row]:
        return (self[row] for row in range(self._length))

    @property
    def description(self) -> Description:
        """Key -> dtype and row shape, merged."""
        return self._merge.description

    def __getitem__(self, index: Any) -> Any:
        """Return one row, or the batch of several rows.

        Args:
            index: The number of a row, negative from the end; or a slice, a list or an array of
                numbers, in any order, repeated or not.

        Returns:
            For one number a `Row`: key -> tensor without a dimension of rows. Else a batch: key ->
            tensor `[rows, ...]`. Of keys that are sampled or sent as top-k, a `SparseTarget`.

        Raises:
            IndexError: There is no such row.
            ConfigurationError: The index is something else, is empty, or the files were closed.
            DataError: A record is damaged.
        """
        if isinstance(index, slice):
            return self._batch(list(range(self._length)[index]))
        try:
            row = None if isinstance(index, bool) else operator.index(index)
        except TypeError:
            row = None
        if row is not None:
            return self.__getitems__([row])[0]
        return self._batch(self._numbers(index))

    def __getitems__(self, indices: Sequence[int]) -> RowBatch:
        """Return the rows of a batch; torch's DataLoader calls it with what its sampler gives.

        Args:
            indices: The numbers of the rows.

        Returns:
            The rows. torch's `default_collate` takes the batch from it, which was read at once.

        Raises:
            IndexError: There is no such row.
            ConfigurationError: The indices are no numbers, or the files were closed.
            DataError: A record is damaged.
        """
        rows = self._numbers(indices)
        return RowBatch(self._batch(rows), len(rows), self._settings.ragged, self._ragged_keys)

    def _numbers(self, indices: Any) -> list[int]:
        """The rows' numbers, from 0 on."""
        length = self._length
        try:
            if isinstance(indices, (str, bytes, dict)):
                raise TypeError("it is text or a mapping")
            plain = indices.tolist() if hasattr(indices, "tolist") else indices
            numbers = list(map(operator.index, plain))
        except TypeError as error:
            raise ConfigurationError(
                f"the index is {indices!r}; it must be a whole number, a slice, or a list or array "
                "of whole numbers"
            ) from error
        if not numbers or (min(numbers) >= 0 and max(numbers) < length):
            return numbers
        for place, number in enumerate(numbers):
            if not 0 <= number < length:
                if not -length <= number < 0:
                    raise IndexError(
                        f"there is no row {number} in {self}: rows are numbered from 0 to "
                        f"{length - 1}, or from {-length} to -1 from the end"
                    )
                numbers[place] = number + length
        return numbers

    def _batch(self, rows: list[int]) -> Batch:
        """Read and merge rows."""
        if not rows:
            raise ConfigurationError(f"no row was asked for; name at least one of {self}")
        chunks = [
            teacher.chunk(rows, self._settings.limits.batch_bytes) for teacher in self._teachers
        ]
        shares = tuple(Share(chunk=chunk, start=0, rows=len(rows)) for chunk in chunks)
        aligned = Aligned(first_row=rows[0], rows=len(rows), shares=shares, global_rows=len(rows))
        self._merge.measure(aligned, len(rows))
        try:
            return next(iter(self._merge.batches(aligned, len(rows))))
        except (SampleMismatch, LengthMismatch, MergeError, QueryUnanswered):
            if len(rows) > 1:
                # Messages count from the first row, as if the rows followed each other. Merged
                # alone, the row that is wrong is named.
                for row in rows:
                    self._batch([row])
            raise
