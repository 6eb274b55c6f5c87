"""How long a pass is, where that is known; and passes as epochs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.teaching import student_of, teach
from torch.utils.data import DataLoader

from tutelage import (
    ConfigurationError,
    FileSink,
    FileSource,
    KafkaSink,
    KafkaSource,
    MemorySink,
    MemoryTopic,
    Student,
    Teacher,
    TruncatedData,
)


def of_files(*paths: Path, **options: Any) -> Student:
    student = Student({"x": "first", "y": "first"} if len(paths) > 1 else None, **options)
    for path in paths:
        student.register_teacher(FileSource(path))
    return student


def uneven(path: Path, codec: Any = "null") -> Path:
    """A file of two passes of 20 and 11 rows."""
    with Teacher(FileSink(path, codec=codec), passes=2, rows_per_record=4) as teacher:
        for rows in (20, 11):
            teacher.write({"x": torch.arange(rows)})
            teacher.end_pass()
    return path


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_of_a_file_every_pass_has_a_known_length(tmp_path: Path, codec: str) -> None:
    with of_files(uneven(tmp_path / "t.avro", codec)) as student:
        assert [student.pass_rows(index) for index in range(3)] == [20, 11, None]
        data = student.dataset(6)
        for length in (4, 2, 4):
            assert len(data) == len(DataLoader(data, batch_size=None)) == length
            assert sum(1 for _ in data) == length


@pytest.mark.parametrize(("options", "length"), [({}, 4), ({"drop_last": True}, 3)])
def test_each_of_several_ranks_has_the_same_length(
    tmp_path: Path, options: dict[str, Any], length: int
) -> None:
    uneven(tmp_path / "t.avro")
    for rank in (0, 1):
        with of_files(tmp_path / "t.avro", shard=(rank, 2)) as student:
            data = student.dataset(3, **options)
            assert len(data) == length == sum(1 for _ in data)


def test_an_epoch_is_a_pass_counted_round(tmp_path: Path) -> None:
    with of_files(uneven(tmp_path / "t.avro")) as student:
        data = student.dataset(30)
        found = []
        for epoch in (1, 0, 3, 2, 2):
            data.set_epoch(epoch)
            assert len(data) == 1
            found.append([len(batch["x"]) for batch in data])
        assert found == [[11], [20], [11], [20], [20]]
        with pytest.raises(ConfigurationError, match="epoch is -1"):
            data.set_epoch(-1)


def test_an_epoch_in_a_loader_with_workers_is_the_pass_that_was_set(tmp_path: Path) -> None:
    with of_files(uneven(tmp_path / "t.avro")) as student:
        data = student.dataset(30)
        data.set_epoch(1)
        assert [len(batch["x"]) for batch in DataLoader(data, batch_size=None, num_workers=1)] == [
            11
        ]


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_hear_of_every_epoch(tmp_path: Path, persistent: bool) -> None:
    with of_files(uneven(tmp_path / "t.avro")) as student:
        data = student.dataset(30)
        loader = DataLoader(data, batch_size=None, num_workers=1, persistent_workers=persistent)
        found = []
        for epoch in (0, 1, 0, 3):
            data.set_epoch(epoch)
            found.append([len(batch["x"]) for batch in loader])
        assert found == [[20], [11], [20], [11]]
        del loader


@pytest.mark.parametrize("when", ["behind the last batch", "behind the end"])
def test_a_run_saved_at_the_end_of_an_epoch_goes_on_with_the_next(
    tmp_path: Path, when: str
) -> None:
    uneven(tmp_path / "t.avro")
    for epoch, following in ((0, 11), (1, 20)):
        with of_files(tmp_path / "t.avro") as student:
            batches = student.knowledge(6, pass_index=epoch)
            for _ in range(4 if epoch == 0 else 2):
                next(batches)
            if when == "behind the end":
                assert next(batches, None) is None
            state = student.state_dict()
            batches.close()
        with of_files(tmp_path / "t.avro") as student:
            student.load_state_dict(state)
            data = student.dataset(6)
            data.set_epoch(epoch + 1)
            assert sum(len(batch["x"]) for batch in data) == following


def test_while_a_teacher_writes_the_length_is_not_known(topic: MemoryTopic) -> None:
    with student_of(topic) as student:
        assert (student.pass_rows(), len(student.dataset(6))) == (20, 4)
    begun = MemoryTopic(name="begun")
    with Teacher(MemorySink(begun), rows_per_record=2) as teacher:
        teacher.write({"x": torch.arange(4)})
        with student_of(begun) as student:
            assert student.pass_rows() is None
            with pytest.raises(TypeError, match="pass 0 is not known before its end has come"):
                len(student.dataset(2))


def test_of_merged_teachers_the_shortest_counts_where_it_ends_the_pass(tmp_path: Path) -> None:
    paths = [tmp_path / "a.avro", tmp_path / "b.avro"]
    for path, rows in zip(paths, (20, 12), strict=True):
        teach(FileSink(path), rows)
    with of_files(*paths, on_length_mismatch="truncate") as student:
        assert student.pass_rows() == 12


def test_a_file_that_is_cut_has_no_length(tmp_path: Path) -> None:
    path = uneven(tmp_path / "t.avro")
    path.write_bytes(path.read_bytes()[:-400])
    with of_files(path) as student, pytest.raises(TruncatedData):
        student.pass_rows()


@pytest.mark.kafka
def test_of_a_topic_the_last_pass_of_a_complete_run_has_a_known_length(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    name = topic_name("lengths")
    with Teacher(KafkaSink(name, **kafka), passes=2) as teacher:
        teacher.write({"x": torch.arange(20)})
        teacher.end_pass()
        student = Student()
        student.register_teacher(KafkaSource(name, **kafka))
        with student:
            assert (student.pass_rows(0), student.pass_rows(1)) == (None, None)
        teacher.write({"x": torch.arange(20)})
    with student:
        assert (student.pass_rows(0), student.pass_rows(1)) == (None, 20)
