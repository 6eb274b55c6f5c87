"""Writes merged batches to an Avro file, as a teacher would, for `tutelage learn --out`."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tutelage import Student, Teacher
    from tutelage.consumers.stages.batches import Batch


class MergedFile:
    """The file of merged batches. Without a path it writes nothing.

    Args:
        path: The file.
        student: The student that merges. It is open when the block begins.
    """

    def __init__(self, path: Path | None, student: Student) -> None:
        self._path = path
        self._student = student
        self._teacher: Teacher | None = None
        self._ragged: list[str] = []

    def __enter__(self) -> MergedFile:
        if self._path is not None:
            from tutelage import FileSink, Teacher
            from tutelage.consumers.stages.sparse_merge import is_sparse
            from tutelage.schemas.errors import ConfigurationError

            sparse = [spec for spec in self._student.description.specs if is_sparse(spec)]
            if sparse:
                raise ConfigurationError(
                    f"--out cannot write key {sparse[0].key!r}, of which only a few entries are "
                    f"known ({sparse[0].wire}); `tutelage record` copies a teacher's topic as it is"
                )
            self._ragged = [spec.key for spec in self._student.description.specs if spec.ragged]
            self._teacher = Teacher(
                FileSink(self._path), name="merged", passes=self._student.passes
            ).__enter__()
        return self

    def write(self, batch: Batch) -> None:
        """Write a batch. A ragged key holds the values of all rows; their lengths are beside it."""
        if self._teacher is None:
            return
        from tutelage.consumers.stages.merge import LENGTHS_SUFFIX
        from tutelage.schemas.record import Ragged

        knowledge: dict[str, Any] = dict(batch)
        for key in self._ragged:
            lengths = knowledge.pop(key + LENGTHS_SUFFIX)
            knowledge[key] = Ragged(batch[key].numpy(), lengths.numpy())
        self._teacher.write(knowledge)

    def end_pass(self) -> None:
        """End a pass of the file."""
        if self._teacher is not None:
            self._teacher.end_pass()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._teacher is not None:
            self._teacher.__exit__(kind, error, trace)
