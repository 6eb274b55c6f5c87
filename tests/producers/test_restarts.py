"""A run that was interrupted goes on without repeating or missing a row; what is not the same run is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.teaching import Stopped, read, stopping

from tutelage import FileSink, FileSource, MemorySink, MemoryTopic, Student, Teacher
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.container_writer import partial_path
from tutelage.schemas.errors import (
    ConfigurationError,
    DescriptionChanged,
    LengthMismatch,
    RecordTooLarge,
    SinkExists,
    TransportError,
)


@given(
    rows=st.integers(1, 60), batch=st.integers(1, 9), size=st.integers(1, 7), partitions=st.integers(1, 4),
    stops=st.lists(st.integers(0, 12), max_size=3), by_hand=st.booleans(), same_rows=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_teacher_stopped_anywhere_and_started_again_writes_the_same_run(
    rows: int,
    batch: int,
    size: int,
    partitions: int,
    stops: list[int],
    by_hand: bool,
    same_rows: bool,
) -> None:
    topic = MemoryTopic(partitions=partitions)
    batches = list(torch.arange(rows).split(batch))
    # Where input rows cannot be counted, what was written is computed again and dropped.
    inputs: list[Any] = (
        batches if same_rows else [{"x": one, "other": torch.zeros(99)} for one in batches]
    )

    def model(inputs: Any) -> dict[str, torch.Tensor]:
        return {"x": inputs if same_rows else inputs["x"]}

    for after in [*stops, None]:
        teacher = Teacher(MemorySink(topic), rows_per_record=size)
        try:
            with teacher:
                given = inputs if after is None else stopping(inputs, after)
                if by_hand:
                    for one in given:
                        teacher.write(model(one))
                else:
                    teacher.serve(model, given)
        except Stopped:
            continue
        except SinkExists:
            # An earlier, unstopped start has written everything.
            assert any(stop >= len(batches) for stop in stops)
    assert read(topic) == list(range(rows))
    assert sum(len(log) for log in topic.logs) == -(-rows // size) + partitions


def test_a_full_disk_keeps_what_is_whole_and_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    real = os.writev
    written = 0

    def full(descriptor: int, buffers: Any) -> int:
        nonlocal written
        written += 1
        if written > 5:
            real(descriptor, [bytes(buffers[0])[:3]])
            raise OSError(28, "No space left on device")
        return real(descriptor, buffers)

    monkeypatch.setattr(os, "writev", full)
    path = tmp_path / "a.avro"
    with (
        pytest.raises(TransportError, match=r"a\.avro\.partial.*No space left"),
        Teacher(FileSink(path), rows_per_record=2) as teacher,
    ):
        teacher.serve(lambda x: {"x": x}, torch.arange(40), batch_size=2)
    monkeypatch.undo()
    assert not path.exists()
    with Teacher(FileSink(path), rows_per_record=2) as teacher:
        teacher.serve(lambda x: {"x": x}, torch.arange(40), batch_size=2)
    with ContainerReader(path) as reader:
        heads = [record.head for block in reader.blocks() for record in block.records]
    assert [head.sequence for head in heads] == list(range(21))
    assert {head.generation for head in heads} == {0, 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "other"}, "teacher 't' there, 'other' here"),
        ({"inputs_fingerprint": "other data"}, "inputs_fingerprint '' there"),
        ({"passes": 2}, "passes 1 there, 2 here"),
        ({"rows_per_record": 3}, "2 rows per record there, 3 here"),
        ({"run_id": "mine"}, "run_id"),
    ],
)
def test_an_unfinished_file_of_another_run_is_not_touched(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    path = tmp_path / "a.avro"
    with pytest.raises(Stopped), Teacher(FileSink(path), name="t", rows_per_record=2) as teacher:
        teacher.serve(lambda x: {"x": x}, stopping(list(torch.arange(20).split(2)), 5))
    before = partial_path(path).read_bytes()
    with (
        pytest.raises(SinkExists, match=message),
        Teacher(FileSink(path), **{"name": "t", **options}),
    ):
        pass
    assert partial_path(path).read_bytes() == before


def test_an_unfinished_file_cut_anywhere_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "a.avro"
    inputs = list(torch.arange(12).split(2))
    with pytest.raises(Stopped), Teacher(FileSink(path), rows_per_record=2) as teacher:
        teacher.serve(lambda x: {"x": x}, stopping(inputs, 3))
    data = partial_path(path).read_bytes()
    with ContainerReader(partial_path(path)) as reader:
        header = reader.header.nbytes
    for length in range(header, len(data) + 1, 7):
        partial_path(path).write_bytes(data[:length])
        with Teacher(FileSink(path), rows_per_record=2) as teacher:
            teacher.serve(lambda x: {"x": x}, inputs)
        student = Student()
        student.register_teacher(FileSource(path))
        with student:
            assert [int(x) for batch in student.knowledge(5) for x in batch["x"]] == list(range(12))
        path.unlink()


def test_a_named_run_that_is_complete_is_simply_done() -> None:
    topic = MemoryTopic()
    for _ in range(2):
        with Teacher(MemorySink(topic), run_id="mine", rows_per_record=2) as teacher:
            teacher.serve(lambda x: {"x": x}, torch.arange(4), batch_size=2)
    assert sum(len(log) for log in topic.logs) == 3


def test_a_teacher_that_changed_meanwhile_is_not_continued() -> None:
    topic = MemoryTopic()
    with pytest.raises(Stopped), Teacher(MemorySink(topic), rows_per_record=2) as teacher:
        teacher.serve(lambda x: {"x": x}, stopping(list(torch.arange(20).split(2)), 5))
    with pytest.raises(DescriptionChanged, match="'x'"), Teacher(MemorySink(topic)) as teacher:
        teacher.serve(lambda x: {"x": x.float()}, list(torch.arange(20).split(2)))


def test_a_write_that_failed_is_followed_by_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.avro"
    with Teacher(FileSink(path), rows_per_record=2) as teacher:
        teacher.write({"x": torch.arange(2)})
        monkeypatch.setattr("tutelage.producers.sinks.file.FileSink.max_record_bytes", 10)
        with pytest.raises(RecordTooLarge, match=r"a\.avro.*rows_per_record="):
            teacher.write({"x": torch.arange(2, 4)})
        monkeypatch.undo()
        for call in (lambda: teacher.write({"x": torch.arange(4, 6)}), teacher.end_pass):
            with pytest.raises(ConfigurationError, match="an earlier write failed"):
                call()
    assert not path.exists()
    assert partial_path(path).exists()


@pytest.mark.parametrize("rows", [9, 20])
def test_a_continued_run_whose_inputs_changed_in_length_is_refused(
    rows: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.avro"
    with Teacher(FileSink(path), rows_per_record=3) as teacher:
        teacher.serve(lambda x: {"x": x}, torch.arange(11), batch_size=2)
    with ContainerReader(path) as reader:
        blocks = list(reader.blocks())
    # As if killed between the last record, which is short, and the end.
    partial_path(path).write_bytes(path.read_bytes()[: blocks[-1].offset])
    path.unlink()
    with (
        pytest.raises(
            LengthMismatch, match="holds 11 rows of pass 0 already, but the inputs gave "
        ),
        Teacher(FileSink(path)) as teacher,
    ):
        teacher.serve(lambda x: {"x": x}, torch.arange(rows), batch_size=2)
    with Teacher(FileSink(path)) as teacher:
        teacher.serve(lambda x: {"x": x}, torch.arange(11), batch_size=2)
    assert path.exists()


@pytest.mark.parametrize("run_id", [None, "mine"])
def test_a_teacher_killed_before_its_file_had_its_name_finishes_it(
    run_id: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "a.avro"

    def write() -> None:
        with Teacher(FileSink(path), run_id=run_id) as teacher:
            teacher.serve(lambda x: {"x": x}, torch.arange(4), batch_size=2)

    write()
    path.rename(partial_path(path))
    write()
    assert path.exists()
    if run_id:
        write()
    else:
        with pytest.raises(SinkExists):
            write()


def test_damage_with_blocks_behind_it_is_not_thrown_away(tmp_path: Path) -> None:
    path = tmp_path / "a.avro"
    with pytest.raises(Stopped), Teacher(FileSink(path), rows_per_record=2) as teacher:
        for batch in torch.arange(20).split(2):
            teacher.write({"x": batch})
        raise Stopped
    with ContainerReader(partial_path(path)) as reader:
        offset = list(reader.blocks())[2].offset
    data = bytearray(partial_path(path).read_bytes())
    data[offset + 60] ^= 1
    partial_path(path).write_bytes(data)
    with pytest.raises(SinkExists, match="blocks follow the damage"), Teacher(FileSink(path)):
        pass
    assert partial_path(path).read_bytes() == data


def test_a_run_of_several_passes_by_hand_is_continued_in_any_of_them(tmp_path: Path) -> None:
    path = tmp_path / "a.avro"

    def write(stop_in: int | None) -> None:
        with Teacher(FileSink(path), passes=3, rows_per_record=2) as teacher:
            for index in range(3):
                for start in (0, 3):
                    if index == stop_in and start:
                        raise Stopped
                    teacher.write({"x": torch.arange(start, start + 3) + 10 * index})
                if index < 2:
                    teacher.end_pass()

    for stop_in in (0, 1, 2):
        with pytest.raises(Stopped):
            write(stop_in)
    write(None)
    student = Student()
    student.register_teacher(FileSource(path))
    with student:
        assert [
            [int(x) for batch in student.knowledge(4) for x in batch["x"]] for _ in range(3)
        ] == [[*range(10 * index, 10 * index + 6)] for index in range(3)]


def test_a_run_left_with_passes_missing_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Teacher(FileSink(tmp_path / "a.avro"), passes=2) as teacher:
        teacher.write({"x": torch.arange(3)})
    assert "1 of 2 passes are written" in caplog.text
    assert not (tmp_path / "a.avro").exists()
