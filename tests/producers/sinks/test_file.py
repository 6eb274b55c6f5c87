"""A file is written behind the encoder's back: what fails there is raised, once and for all, and never leaves a gap."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tutelage import FileSink, FileSource, Student, Teacher
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.container_writer import partial_path
from tutelage.schemas.errors import ConfigurationError, RecordTooLarge, SinkExists, TransportError


class FullOnce:
    """`os.writev` that fails at the call of this number, after `part` bytes of it; and never again."""

    def __init__(self, at: int, part: int) -> None:
        self._left = at
        self._part = part
        self._real = os.writev

    def __call__(self, descriptor: int, buffers: Any) -> int:
        self._left -= 1
        if self._left == 0:
            if self._part:
                os.write(descriptor, b"".join(bytes(buffer) for buffer in buffers)[: self._part])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._real(descriptor, buffers)


@pytest.fixture(params=[0, 7], ids=["nothing of it", "a part of it"])
def full_once(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], None]:
    """Have the disk be full once, at a certain block (the header is the first)."""
    return lambda at: monkeypatch.setattr(
        "tutelage.schemas.container_writer.os.writev", FullOnce(at, request.param)
    )


def serve(path: Path) -> None:
    with Teacher(FileSink(path), rows_per_record=4) as teacher:
        teacher.serve(lambda x: {"x": x}, torch.arange(40), batch_size=4)


def whole(path: Path) -> list[int]:
    """The first row of every record of a file, which must be consecutive."""
    with ContainerReader(path) as reader:
        return [record.head.sequence for block in reader.blocks() for record in block.records]


def learned(path: Path) -> list[int]:
    student = Student()
    student.register_teacher(FileSource(path))
    with student:
        return [x for batch in student.knowledge(7) for x in batch["x"].tolist()]


@pytest.mark.parametrize("at", [2, 4, 9])
def test_a_full_disk_ends_the_run_and_leaves_what_is_whole(
    tmp_path: Path, full_once: Callable[[int], None], at: int
) -> None:
    path = tmp_path / "a.avro"
    full_once(at)
    with pytest.raises(TransportError, match="No space left"):
        serve(path)
    assert not path.exists()
    assert whole(partial_path(path)) == list(range(at - 2))
    serve(path)
    assert learned(path) == list(range(40))


@pytest.mark.parametrize("at", [2, 5])
def test_a_full_disk_is_raised_where_batches_are_written_by_hand_and_nothing_follows(
    tmp_path: Path, full_once: Callable[[int], None], at: int
) -> None:
    path = tmp_path / "a.avro"
    full_once(at)
    failed = 0
    with Teacher(FileSink(path), rows_per_record=4) as teacher:
        for start in range(0, 40, 4):
            try:
                teacher.write({"x": torch.arange(start, start + 4)})
            except TransportError:
                failed += 1
            except ConfigurationError as error:
                assert "an earlier write failed" in str(error)
    assert failed == 1
    assert not path.exists()
    assert whole(partial_path(path)) == list(range(at - 2))


def test_a_pass_that_was_ended_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.avro"
    with Teacher(FileSink(path), rows_per_record=4, passes=2) as teacher:
        teacher.write({"x": torch.arange(10)})
        teacher.end_pass()
        assert whole(partial_path(path)) == [0, 1, 2, 3]
        teacher.write({"x": torch.arange(10)})


def test_memory_is_free_again_when_write_returns(tmp_path: Path) -> None:
    path = tmp_path / "a.avro"
    values = torch.zeros(1000, dtype=torch.int64)
    with Teacher(FileSink(path), rows_per_record=1000) as teacher:
        for index in range(20):
            values.fill_(index)
            teacher.write({"x": values})
    assert learned(path) == [index for index in range(20) for _ in range(1000)]


def test_a_file_with_a_gap_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "a.avro"
    serve(path)
    with ContainerReader(path) as reader:
        blocks = list(reader.blocks())
    data = path.read_bytes()
    path.unlink()
    partial_path(path).write_bytes(
        data[: blocks[2].offset] + data[blocks[3].offset : blocks[6].offset]
    )
    with pytest.raises(
        SinkExists, match="record 3 of pass 0 follows where record 2 of pass 0 must"
    ):
        serve(path)


def test_no_thread_is_left_when_all_is_written(tmp_path: Path) -> None:
    before = threading.active_count()
    teacher = Teacher(FileSink(tmp_path / "a.avro"), rows_per_record=4)
    teacher.serve(lambda x: {"x": x}, torch.arange(40), batch_size=4)
    for thread in threading.enumerate():
        if thread.name == "tutelage-write":
            thread.join(5)
    assert threading.active_count() <= before + 2
    assert not any(thread.name == "tutelage-write" for thread in threading.enumerate())


def numbers_from(start: int) -> dict[str, torch.Tensor]:
    return {"x": torch.arange(start, start + 40)}


def test_a_file_is_finished_where_it_was_begun_wherever_the_program_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, other = tmp_path / "begun", tmp_path / "other"
    begun.mkdir()
    other.mkdir()
    # Another run, of a program that was stopped there.
    with (
        contextlib.suppress(KeyboardInterrupt),
        Teacher(FileSink(other / "a.avro"), rows_per_record=4) as teacher,
    ):
        teacher.write(numbers_from(1000))
        raise KeyboardInterrupt
    before = partial_path(other / "a.avro").read_bytes()
    monkeypatch.chdir(begun)
    teacher, source = Teacher(FileSink("a.avro"), rows_per_record=4), FileSource("a.avro")
    monkeypatch.chdir(other)
    with teacher:
        teacher.write(numbers_from(0))
    assert learned(begun / "a.avro") == list(range(40))
    assert [path.name for path in other.iterdir()] == ["a.avro.partial"]
    assert partial_path(other / "a.avro").read_bytes() == before
    student = Student()
    student.register_teacher(source)
    with student:
        assert [x for batch in student.knowledge(7) for x in batch["x"].tolist()] == list(range(40))


@pytest.mark.parametrize("then", ["removed", "replaced", "a folder", "a link"])
def test_a_file_that_is_no_longer_the_written_one_gets_no_name(tmp_path: Path, then: str) -> None:
    path, partial = tmp_path / "a.avro", tmp_path / "a.avro.partial"
    with (
        pytest.raises(TransportError, match="is not the file that was written here"),
        Teacher(FileSink(path), rows_per_record=4) as teacher,
    ):
        teacher.write(numbers_from(0))
        partial.rename(tmp_path / "moved")
        if then == "replaced":
            partial.write_bytes(b"of somebody else")
        elif then == "a folder":
            partial.mkdir()
        elif then == "a link":
            partial.symlink_to(tmp_path / "moved")
    assert not os.path.lexists(path)
    assert os.path.lexists(partial) == (then != "removed")
    assert then != "replaced" or partial.read_bytes() == b"of somebody else"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("begun", [False, True], ids=["begun anew", "continued"])
def test_a_name_that_somebody_else_takes_meanwhile_is_kept_unless_it_may_be_overwritten(
    tmp_path: Path, overwrite: bool, begun: bool
) -> None:
    path = tmp_path / "a.avro"
    if begun:
        with (
            contextlib.suppress(KeyboardInterrupt),
            Teacher(FileSink(path), rows_per_record=4) as teacher,
        ):
            teacher.write(numbers_from(0))
            raise KeyboardInterrupt
    teacher = Teacher(FileSink(path, overwrite=overwrite), rows_per_record=4)
    teacher.start()
    teacher.write(numbers_from(0))
    path.write_bytes(b"of somebody else")
    if overwrite:
        teacher.end_pass()
        assert learned(path) == list(range(40))
        return
    with pytest.raises(SinkExists, match="exists, and was not there before"):
        teacher.end_pass()
    teacher.close()
    assert path.read_bytes() == b"of somebody else"
    assert whole(partial_path(path)) == list(range(11))


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_name_that_is_a_link_stays_one_and_the_file_lies_where_it_points(
    tmp_path: Path, overwrite: bool
) -> None:
    (tmp_path / "large disk").mkdir()
    link, target = tmp_path / "a.avro", tmp_path / "large disk" / "b.avro"
    link.symlink_to(target)
    if overwrite:
        target.write_bytes(b"older")
    with Teacher(FileSink(link, overwrite=overwrite), rows_per_record=4) as teacher:
        teacher.write(numbers_from(0))
        assert partial_path(target).exists()
    assert link.is_symlink()
    assert learned(link) == learned(target) == list(range(40))
    with pytest.raises(SinkExists, match="exists"):
        Teacher(FileSink(link)).start()


@pytest.mark.parametrize("name", ["v.partial", "v.avro.partial", "v.PARTIAL", ".partial", "link"])
def test_no_finished_file_may_be_called_like_an_unfinished_one(tmp_path: Path, name: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "v.partial")
    for overwrite in (False, True):
        with pytest.raises(ConfigurationError, match=r"ends in \.partial"):
            FileSink(tmp_path / name, overwrite=overwrite)


@pytest.mark.parametrize("place", ["folder", "pipe", "/dev/null"])
def test_what_is_no_file_is_not_written_over(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for overwrite in (False, True):
        with pytest.raises(ConfigurationError, match="a folder or a device"):
            FileSink(tmp_path / place, overwrite=overwrite)


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("", {}), ("a\0.avro", {}), (b"a.avro", {}), (5, {}), (None, {}),
        ("a.avro", {"codec": 5}), ("a.avro", {"codec": ["null"]}), ("a.avro", {"codec": None}),
        ("a.avro", {"overwrite": "false"}), ("a.avro", {"overwrite": 1}), ("a.avro", {"overwrite": None}),
    ],
)  # fmt: skip
def test_arguments_of_a_wrong_kind_are_refused_at_the_call(
    path: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError, match="path|codec|overwrite"):
        FileSink(path, **options)


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("", {}), ("a\0.avro", {}), (b"a.avro", {}), (5, {}), (None, {}),
        ("a.avro", {"verify": "no"}), ("a.avro", {"verify": 0}), ("a.avro", {"limits": None}), ("a.avro", {"limits": 5}),
    ],
)  # fmt: skip
def test_a_source_refuses_arguments_of_a_wrong_kind_at_the_call(
    path: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError, match="path|verify|limits"):
        FileSource(path, **options)


def test_a_file_s_name_that_is_no_text_still_names_a_teacher(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/n\xe9.avro"))
    serve(path)
    with ContainerReader(path) as reader:
        assert reader.stream.teacher == r"n\xe9"


@pytest.mark.parametrize(
    ("rows", "words"),
    [(4, "rows_per_record=2 would fit; or "), (1, "rows_per_record=1 does not fit either")],
)
def test_a_record_that_is_too_large_says_what_would_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, words: str
) -> None:
    monkeypatch.setattr(FileSink, "max_record_bytes", 3000 if rows > 1 else 500)
    with (
        pytest.raises(
            RecordTooLarge,
            match=r"a\.avro, record 0 of pass 0: its .* bytes are more than .*" + words,
        ) as raised,
        Teacher(FileSink(tmp_path / "a.avro"), rows_per_record=rows) as teacher,
    ):
        teacher.write({"x": torch.zeros(4, 256)})
    assert "wire" in str(raised.value)
    assert "rows_per_record=0" not in str(raised.value)
