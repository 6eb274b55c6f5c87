"""`KnowledgeFile` and `KnowledgeFiles`: any row of knowledge files at once, for torch's DataLoader."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tutelage.consumers.compatibility import check_streams
from tutelage.consumers.random_access.row_dataset import RowDataset
from tutelage.consumers.random_access.row_reader import RowReader
from tutelage.consumers.random_access.teacher_rows import TeacherRows
from tutelage.consumers.settings import Settings
from tutelage.consumers.stages.ragged import RaggedFormat
from tutelage.consumers.stages.strategies import MergeStrategy
from tutelage.schemas.arguments import absolute_path, check_flag, check_whole_number
from tutelage.schemas.errors import ConfigurationError, LengthMismatch
from tutelage.schemas.limits import DEFAULT_LIMITS, Limits

Path = str | os.PathLike[str]


class KnowledgeFile(RowDataset):
    """The rows of one pass of a knowledge file, as a map-style torch `Dataset`.

    `file[i]` is one row, `file[[i, j]]` the batch of several, and a DataLoader takes it as it is:
    `DataLoader(file, batch_size=32, shuffle=True)`.

    Guarantee: a row has the bits that `Student.knowledge` gives, or an error says what is wrong
    where. Each record's checksum is verified when the first of its rows is read, for which all of
    it is read once.

    It may be pickled, forked, and shared by threads. Use it as a context manager, or `close` it.

    Args:
        path: An Avro container file that a `FileSink` or `tutelage record` wrote to its end.
        pass_index: The pass whose rows are given, from 0.
        verify: Whether to check the checksum of every record.
        ragged_format: How ragged keys of batches are given. If not given, padded with 0 on the
            right, with their lengths under `KEY.lengths`.
        keep_index: Whether to keep the places of the records in `NAME.idx` beside the file. Without
            it they are found each time the file is opened, with one short read per record.
        limits: How large records, schemas, shapes and batches may be.

    Raises:
        ConfigurationError: An argument has the wrong type or value, or the file or pass is missing.
        DataError: The file is unfinished or damaged.
        SchemaError: It is not a knowledge file.
    """

    def __init__(
        self,
        path: Path,
        *,
        pass_index: int = 0,
        verify: bool = True,
        ragged_format: RaggedFormat | None = None,
        keep_index: bool = True,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        settings = _settings(None, ragged_format=ragged_format, limits=limits)
        (teacher,) = _opened([[path]], settings, pass_index, verify, keep_index)
        self._file = teacher.files[0]
        super().__init__([teacher], settings)

    def __repr__(self) -> str:
        return f"KnowledgeFile({self._file.name!r}, pass {self._file.pass_index}: {len(self)} rows)"

    @property
    def passes(self) -> int:
        """How many passes the file holds."""
        return len(self._file.index.passes)

    def rows(self, pass_index: int) -> int:
        """Return how many rows a pass has.

        Args:
            pass_index: The pass, from 0.

        Returns:
            Its rows.

        Raises:
            ConfigurationError: The file has no such pass.
        """
        number = check_whole_number("pass_index", pass_index, least=0, most=self.passes - 1)
        return self._file.index.passes[number].rows


class KnowledgeFiles(RowDataset):
    """The rows of several knowledge files as one map-style torch `Dataset`.

    `KnowledgeFiles([a, b])` has the rows of `a` and, behind them, those of `b`. Both must hold the
    same keys. `KnowledgeFiles.merged([a, b], merge=...)` has the rows of several teachers, merged as
    a `Student` merges them.

    Guarantee: as for `KnowledgeFile`.

    Args:
        paths: The files, in order.
        pass_index: The pass of each file whose rows are given, from 0.
        verify: Whether to check the checksum of every record.
        ragged_format: How ragged keys of batches are given, as for `KnowledgeFile`.
        keep_index: Whether to keep the places of the records in `NAME.idx` beside each file.
        limits: How large records, schemas, shapes and batches may be.

    Raises:
        ConfigurationError: An argument has the wrong type or value, or a file or pass is missing.
        DescriptionChanged: The files hold different keys, dtypes or shapes.
        DataError: A file is unfinished or damaged.
        SchemaError: A file is not a knowledge file.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        pass_index: int = 0,
        verify: bool = True,
        ragged_format: RaggedFormat | None = None,
        keep_index: bool = True,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        settings = _settings(None, ragged_format=ragged_format, limits=limits)
        files = [_listed("paths", paths)]
        super().__init__(_opened(files, settings, pass_index, verify, keep_index), settings)

    @classmethod
    def merged(
        cls,
        teachers: Sequence[Path | Sequence[Path]],
        *,
        merge: Mapping[str, MergeStrategy] | None = None,
        sample_id: str | None = None,
        on_length_mismatch: Literal["error", "truncate"] = "error",
        allow_other_inputs: bool = False,
        pass_index: int = 0,
        verify: bool = True,
        ragged_format: RaggedFormat | None = None,
        keep_index: bool = True,
        limits: Limits = DEFAULT_LIMITS,
    ) -> KnowledgeFiles:
        """Return the rows of several teachers, merged.

        Args:
            teachers: For each teacher its file, or a list of files that lie one behind the other.
            merge: Key -> strategy, as for `Student`. A function is called with the rows of each
                batch that is asked for.
            sample_id: A key of every teacher, whose values must be equal row by row.
            on_length_mismatch: `"error"`, or `"truncate"` to end at the shortest teacher.
            allow_other_inputs: Merge teachers although the fingerprints of their inputs differ.
            pass_index: As for the constructor.
            verify: As for the constructor.
            ragged_format: As for the constructor.
            keep_index: As for the constructor.
            limits: As for the constructor.

        Returns:
            The dataset.

        Raises:
            ConfigurationError: An argument has the wrong type or value, or a file or pass is
                missing.
            MergeError: The teachers' keys cannot be merged as asked.
            LengthMismatch: The teachers differ in rows or passes.
            RunMismatch: The teachers read different inputs.
            DataError: A file is unfinished or damaged.
        """
        settings = _settings(
            merge,
            sample_id=sample_id,
            on_length_mismatch=on_length_mismatch,
            allow_other_inputs=allow_other_inputs,
            ragged_format=ragged_format,
            limits=limits,
        )
        paths = [
            [each] if isinstance(each, (str, os.PathLike)) else _listed("teachers", each)
            for each in _listed("teachers", teachers)
        ]
        self = cls.__new__(cls)
        opened = _opened(paths, settings, pass_index, verify, keep_index)
        RowDataset.__init__(self, opened, settings)
        return self

    def __repr__(self) -> str:
        names = ", ".join(teacher.name for teacher in self._teachers)
        return f"KnowledgeFiles({names}: {len(self)} rows)"


def _settings(merge: Any, **arguments: Any) -> Settings:
    """A student's settings, with what concerns reading ahead at its defaults."""
    given = {
        "sample_id": None,
        "on_length_mismatch": "error",
        "allow_other_inputs": False,
        **arguments,
    }
    return Settings.from_arguments(
        merge,
        **{("ragged" if name == "ragged_format" else name): each for name, each in given.items()},
        timeout_s=1,
        prefetch=1,
        budget_bytes=1,
        pin_memory=False,
        shard=None,
    )


def _listed(name: str, paths: Any) -> list[Any]:
    """Check that several paths were given, not one."""
    if isinstance(paths, (str, bytes, os.PathLike)) or not isinstance(paths, Sequence) or not paths:
        raise ConfigurationError(f"{name} is {paths!r}; it must be a list of at least one path")
    return list(paths)


def _opened(
    paths: Sequence[Sequence[Path]],
    settings: Settings,
    pass_index: Any,
    verify: Any,
    keep_index: Any,
) -> list[TeacherRows]:
    """Open the files of each teacher, and check that the teachers belong together."""
    pass_index = check_whole_number("pass_index", pass_index, least=0)
    verify = check_flag("verify", verify)
    keep_index = check_flag("keep_index", keep_index)
    files: list[RowReader] = []
    try:
        teachers = []
        for one in paths:
            mine = []
            for path in one:
                mine.append(
                    RowReader(
                        absolute_path("path", path),
                        name=os.fspath(path),
                        pass_index=pass_index,
                        verify=verify,
                        limits=settings.limits,
                        keep_index=keep_index,
                    )
                )
                files.append(mine[-1])
            teachers.append(TeacherRows(mine))
        for number in range(max(len(teacher.files) for teacher in teachers)):
            # Files of different number are compared with the last one of a teacher that has fewer.
            check_streams(
                [teacher.files[min(number, len(teacher.files) - 1)].info for teacher in teachers],
                allow_other_inputs=settings.allow_other_inputs,
            )
        if len({teacher.rows for teacher in teachers}) > 1 and not settings.truncates:
            lengths = ", ".join(f"{teacher.name} has {teacher.rows} rows" for teacher in teachers)
            raise LengthMismatch(
                f"the teachers differ in length: {lengths}; ask for on_length_mismatch='truncate' "
                "to end at the shortest"
            )
    except BaseException:
        for file in files:
            file.close()
        raise
    return teachers
