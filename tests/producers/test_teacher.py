"""A teacher writes every row once: by hand or served, interrupted anywhere and started again, on any number of devices."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.consumers import FileSource, MemorySource, MemoryTopic, Student
from tutelage.producers import FileSink, MemorySink, Teacher, gather
from tutelage.producers.encoding import postprocess_threads
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.container_writer import partial_path
from tutelage.schemas.errors import (
    ConfigurationError,
    DescriptionChanged,
    LengthMismatch,
    RecordTooLarge,
    SchemaError,
    SinkExists,
    TransportError,
    TutelageError,
)


class Stopped(Exception):
    """Ends a teacher somewhere."""


def read(topic: MemoryTopic, passes: int = 1) -> list[int]:
    student = Student(timeout_s=5)
    student.register_teacher(MemorySource(topic))
    with student:
        return [int(x) for _ in range(passes) for batch in student.knowledge(64) for x in batch["x"]]


def stopping(batches: list[torch.Tensor], after: int) -> Iterator[torch.Tensor]:
    for index, batch in enumerate(batches):
        if index == after:
            raise Stopped
        yield batch


@given(
    rows=st.integers(1, 60), batch=st.integers(1, 9), size=st.integers(1, 7), partitions=st.integers(1, 4),
    stops=st.lists(st.integers(0, 12), max_size=3), by_hand=st.booleans(), same_rows=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_teacher_stopped_anywhere_and_started_again_writes_the_same_run(
    rows: int, batch: int, size: int, partitions: int, stops: list[int], by_hand: bool, same_rows: bool
) -> None:
    topic = MemoryTopic(partitions=partitions)
    batches = list(torch.arange(rows).split(batch))
    # Where input rows cannot be counted, what was written is computed again and dropped.
    inputs: list[Any] = batches if same_rows else [{"x": one, "other": torch.zeros(99)} for one in batches]

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


@pytest.mark.parametrize("devices", [1, 2, 3, 5])
def test_no_batch_is_lost_or_reordered_whatever_the_devices(devices: int) -> None:
    topic = MemoryTopic(partitions=3)

    def slow(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        # Later batches finish earlier.
        time.sleep(0.002 * (7 - int(batch[0]) % 7))
        return {"x": batch}

    with Teacher(MemorySink(topic), rows_per_record=1) as teacher:
        teacher.serve(slow, torch.arange(31), batch_size=2, devices=["cpu"] * devices, threads=4)
    assert read(topic) == list(range(31))


def test_each_device_has_its_own_replica_of_a_module_and_it_is_in_eval_mode() -> None:
    seen: set[int] = set()

    class Model(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
            assert not self.training
            assert torch.is_inference_mode_enabled()
            seen.add(id(self))
            return {"x": batch}

    with Teacher(MemorySink(MemoryTopic())) as teacher:
        teacher.serve(Model().train(), torch.arange(20), batch_size=1, devices=["cpu", "cpu", "cpu"])
    assert len(seen) == 3


def test_two_passes_are_two_passes() -> None:
    topic = MemoryTopic(partitions=2)
    with Teacher(MemorySink(topic), passes=2, rows_per_record=3) as teacher:
        teacher.serve(lambda x: {"x": x}, torch.arange(7), batch_size=2)
    assert read(topic, passes=2) == [*range(7)] * 2


def test_writing_by_hand_takes_passes_too_and_owns_what_it_keeps() -> None:
    topic = MemoryTopic()
    buffer = np.zeros(2, np.int64)
    with Teacher(MemorySink(topic), passes=2, rows_per_record=3) as teacher:
        for start in (0, 2, 4):
            buffer[:] = (start, start + 1)
            teacher.write({"x": buffer})
        teacher.end_pass()
        teacher.write({"x": np.arange(6)})
    assert read(topic, passes=2) == [*range(6)] * 2


@pytest.mark.parametrize("place", ["inputs", "model", "sink"])
def test_an_exception_anywhere_comes_out_as_it_is_and_ends_every_thread(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def inputs() -> Iterator[torch.Tensor]:
        for index in range(100):
            if place == "inputs" and index == 50:
                raise Stopped
            yield torch.full((4,), index)

    def model(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        if place == "model" and int(batch[0]) == 50:
            raise Stopped
        return {"x": batch}

    sink = MemorySink(MemoryTopic())
    if place == "sink":
        monkeypatch.setattr(sink, "write", lambda *_: (_ for _ in ()).throw(Stopped()))
    before = set(threading.enumerate())
    with pytest.raises(Stopped), Teacher(sink, rows_per_record=2) as teacher:
        teacher.serve(model, inputs(), devices=["cpu", "cpu"])
    deadline = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


def test_a_full_disk_keeps_what_is_whole_and_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_file_that_is_there_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "a.avro"

    def write(**options: Any) -> None:
        with Teacher(FileSink(path, **options)) as teacher:
            teacher.serve(lambda x: {"x": x}, torch.arange(4), batch_size=2)

    write()
    before = path.read_bytes()
    with pytest.raises(SinkExists, match=r"a\.avro exists.*--overwrite"):
        write()
    assert path.read_bytes() == before
    write(overwrite=True)
    assert path.read_bytes() != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "other"}, "teacher 't' there, 'other' here"),
        ({"inputs": "other data"}, "inputs '' there"),
        ({"passes": 2}, "passes 1 there, 2 here"),
        ({"rows_per_record": 3}, "2 rows per record there, 3 here"),
        ({"run_id": "mine"}, "run_id"),
    ],
)
def test_an_unfinished_file_of_another_run_is_not_touched(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = tmp_path / "a.avro"
    with pytest.raises(Stopped), Teacher(FileSink(path), name="t", rows_per_record=2) as teacher:
        teacher.serve(lambda x: {"x": x}, stopping(list(torch.arange(20).split(2)), 5))
    before = partial_path(path).read_bytes()
    with pytest.raises(SinkExists, match=message), Teacher(FileSink(path), **{"name": "t", **options}):
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


def broken_model(change: str) -> Any:
    def model(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        if int(batch[0]) < 10:
            return {"x": batch}
        return {
            "dtype": {"x": batch.float()},
            "shape": {"x": batch[:, None]},
            "keys": {"y": batch},
            "rows": {"x": batch, "y": batch},
        }[change]

    return model


@pytest.mark.parametrize("change", ["dtype", "shape", "keys", "rows"])
def test_knowledge_that_changes_in_the_middle_of_a_run_is_refused(change: str) -> None:
    with (
        pytest.raises(DescriptionChanged, match="differ between batches|became"),
        Teacher(MemorySink(MemoryTopic())) as teacher,
    ):
        teacher.serve(broken_model(change), torch.arange(20), batch_size=2)


def test_empty_inputs_are_an_error_and_write_nothing(tmp_path: Path) -> None:
    for inputs in ([], [torch.zeros(0)]):
        with pytest.raises(ConfigurationError, match="gave no rows"), Teacher(FileSink(tmp_path / "a.avro")) as teacher:
            teacher.serve(lambda x: {"x": x}, inputs)
    assert not list(tmp_path.iterdir())


def test_the_order_of_calls_is_checked() -> None:
    teacher = Teacher(MemorySink(MemoryTopic()))
    for call in (lambda: teacher.write({}), lambda: teacher.send(1), teacher.recv, teacher.end_pass):
        with pytest.raises(ConfigurationError, match="not started"):
            call()
    teacher.start()
    with pytest.raises(ConfigurationError, match="started already"):
        teacher.start()
    teacher.close()
    with pytest.raises(ConfigurationError, match="closed"):
        teacher.write({})
    for options in ({"passes": 0}, {"rows_per_record": 0}, {"rows_per_record": 1.5}):
        with pytest.raises(ConfigurationError, match="at least 1"):
            Teacher(MemorySink(MemoryTopic()), **options)  # type: ignore[arg-type]


def test_files_have_nobody_to_talk_to(tmp_path: Path) -> None:
    with Teacher(FileSink(tmp_path / "a.avro")) as teacher:
        for call in (lambda: teacher.send(1), lambda: teacher.recv(timeout_s=1)):
            with pytest.raises(ConfigurationError, match="is a file"):
                call()


@pytest.mark.parametrize(("devices", "message"), [([], "empty"), (["cuda:0"], "no CUDA device")])
def test_devices_that_are_not_there_are_refused(devices: list[str], message: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(ConfigurationError, match=message), Teacher(MemorySink(MemoryTopic())) as teacher:
        teacher.serve(torch.nn.Identity(), torch.arange(4), batch_size=2, devices=devices)


def test_the_number_of_encoding_threads_is_pantheons_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert postprocess_threads() == 8
    monkeypatch.setenv("NUM_POSTPROCESS_THREADS", "3")
    assert postprocess_threads() == 3
    assert postprocess_threads(5) == 5
    for wrong in ("0", "-1", "many", "1e3"):
        monkeypatch.setenv("NUM_POSTPROCESS_THREADS", wrong)
        with pytest.raises(ConfigurationError, match="NUM_POSTPROCESS_THREADS"):
            postprocess_threads()


def test_a_model_that_returns_no_dict_is_told_so() -> None:
    with pytest.raises(SchemaError, match="must return a dict"), Teacher(MemorySink(MemoryTopic())) as teacher:
        teacher.serve(torch.nn.Identity(), torch.arange(4), batch_size=2)


def test_errors_are_all_of_one_tree() -> None:
    import tutelage.schemas.errors as errors

    found = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert all(issubclass(error, TutelageError) and error.__doc__ for error in found)


def test_a_repr_reads_like_what_a_person_would_say() -> None:
    with Teacher(MemorySink(MemoryTopic(name="t1"))) as teacher:
        teacher.serve(lambda x: {"x": x}, torch.arange(4), batch_size=2)
        assert repr(teacher) == "Teacher('t1' to MemorySink('t1', 1 partitions), 4 rows in 2 records written)"


def test_batches_under_way_before_the_first_is_described_are_checked_too() -> None:
    release = threading.Event()

    def model(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        if int(batch[0]) == 0:
            release.wait(5)
            return {"x": batch.float()}
        release.set()
        return {"x": batch}

    with pytest.raises(DescriptionChanged), Teacher(MemorySink(MemoryTopic())) as teacher:
        teacher.serve(model, torch.arange(8), batch_size=2, devices=["cpu", "cpu"])


def test_a_write_that_failed_is_followed_by_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.avro"
    with Teacher(FileSink(path), rows_per_record=2) as teacher:
        teacher.write({"x": torch.arange(2)})
        monkeypatch.setattr("tutelage.producers.file_sink.FileSink.max_record_bytes", 10)
        with pytest.raises(RecordTooLarge, match=r"a\.avro.*rows_per_record="):
            teacher.write({"x": torch.arange(2, 4)})
        monkeypatch.undo()
        for call in (lambda: teacher.write({"x": torch.arange(4, 6)}), teacher.end_pass):
            with pytest.raises(ConfigurationError, match="an earlier write failed"):
                call()
    assert not path.exists()
    assert partial_path(path).exists()


@pytest.mark.parametrize("rows", [9, 20])
def test_a_continued_run_whose_inputs_changed_in_length_is_refused(rows: int, tmp_path: Path) -> None:
    path = tmp_path / "a.avro"
    with Teacher(FileSink(path), rows_per_record=3) as teacher:
        teacher.serve(lambda x: {"x": x}, torch.arange(11), batch_size=2)
    with ContainerReader(path) as reader:
        blocks = list(reader.blocks())
    # As if killed between the last record, which is short, and the end.
    partial_path(path).write_bytes(path.read_bytes()[: blocks[-1].offset])
    path.unlink()
    with (
        pytest.raises(LengthMismatch, match="holds 11 rows of pass 0 already, but the inputs gave "),
        Teacher(FileSink(path)) as teacher,
    ):
        teacher.serve(lambda x: {"x": x}, torch.arange(rows), batch_size=2)
    with Teacher(FileSink(path)) as teacher:
        teacher.serve(lambda x: {"x": x}, torch.arange(11), batch_size=2)
    assert path.exists()


@pytest.mark.parametrize("run_id", [None, "mine"])
def test_a_teacher_killed_before_its_file_had_its_name_finishes_it(run_id: str | None, tmp_path: Path) -> None:
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


def test_a_model_that_drops_rows_says_so_or_is_refused() -> None:
    def even(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"x": batch if int(batch[0]) < 4 else batch[batch % 2 == 0]}

    with pytest.raises(SchemaError, match="keeps_rows=False"), Teacher(MemorySink(MemoryTopic())) as teacher:
        teacher.serve(even, torch.arange(20), batch_size=4)
    topic = MemoryTopic()
    with pytest.raises(Stopped), Teacher(MemorySink(topic), rows_per_record=3) as teacher:
        teacher.serve(even, stopping(list(torch.arange(20).split(4)), 4), keeps_rows=False)
    with Teacher(MemorySink(topic), rows_per_record=3) as teacher:
        teacher.serve(even, list(torch.arange(20).split(4)), keeps_rows=False)
    assert read(topic) == [0, 1, 2, 3, *range(4, 20, 2)]


@pytest.mark.parametrize("lengths", [[1, 1], [4, 1], [-1, 4], [1.5, 1.5], [[1, 2]]])
def test_lengths_that_do_not_fit_their_values_are_refused(lengths: Any) -> None:
    from tutelage.producers import Ragged

    with pytest.raises(SchemaError, match="lengths must be whole numbers"), Teacher(MemorySink(MemoryTopic())) as teacher:
        teacher.write({"r": Ragged(np.zeros(3), np.array(lengths))})


def test_names_of_keys_the_model_does_not_give_are_refused() -> None:
    with (
        pytest.raises(SchemaError, match=r"wire or ragged names \['logit'\]"),
        Teacher(MemorySink(MemoryTopic()), wire={"logit": "float16"}) as teacher,
    ):
        teacher.write({"logits": torch.zeros(2)})


def test_waiting_rows_are_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = 0
    real = gather._copied

    def counted(*arguments: Any) -> Any:
        nonlocal copies
        copies += 1
        return real(*arguments)

    monkeypatch.setattr(gather, "_copied", counted)
    topic = MemoryTopic()
    with Teacher(MemorySink(topic), rows_per_record=2000) as teacher:
        for index in range(1000):
            teacher.write({"x": np.array([index])})
    # Each waiting row is copied once, not again at every write.
    assert copies == 1000
    assert read(topic) == list(range(1000))


def test_a_process_ends_although_its_inputs_hang(tmp_path: Path) -> None:
    script = (
        "import time, torch\n"
        "from tutelage.producers import MemorySink, MemoryTopic, Teacher\n"
        "def hanging():\n"
        "    yield torch.arange(2)\n"
        "    time.sleep(600)\n"
        "with Teacher(MemorySink(MemoryTopic())) as teacher:\n"
        "    teacher.serve(lambda x: {'x': x}, hanging, timeout_s=0.5)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert "WaitTimeout: waited" in done.stderr
    assert done.returncode == 1


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
        assert [[int(x) for batch in student.knowledge(4) for x in batch["x"]] for _ in range(3)] == [
            [*range(10 * index, 10 * index + 6)] for index in range(3)
        ]


def test_a_run_left_with_passes_missing_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Teacher(FileSink(tmp_path / "a.avro"), passes=2) as teacher:
        teacher.write({"x": torch.arange(3)})
    assert "1 of 2 passes are written" in caplog.text
    assert not (tmp_path / "a.avro").exists()
