"""A file is written behind the encoder's back: what fails there is raised, once and for all, and never leaves a gap."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tutelage.consumers import FileSource, Student
from tutelage.producers import FileSink, Teacher
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.container_writer import partial_path
from tutelage.schemas.errors import ConfigurationError, SinkExists, TransportError


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
def full_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have the disk be full once, at a certain block (the header is the first)."""
    return lambda at: monkeypatch.setattr("tutelage.schemas.container_writer.os.writev", FullOnce(at, request.param))


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
def test_a_full_disk_ends_the_run_and_leaves_what_is_whole(tmp_path: Path, full_once: Callable[[int], None], at: int) -> None:
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
    partial_path(path).write_bytes(data[: blocks[2].offset] + data[blocks[3].offset : blocks[6].offset])
    with pytest.raises(SinkExists, match="record 3 of pass 0 follows where record 2 of pass 0 must"):
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
