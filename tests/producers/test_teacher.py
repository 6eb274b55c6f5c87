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
from support.teaching import Stopped, read, stopping

from tutelage import FileSink, MemorySink, MemoryTopic, Teacher
from tutelage.producers.stages import gather
from tutelage.producers.stages.encode import postprocess_threads
from tutelage.schemas.errors import (
    ConfigurationError,
    DescriptionChanged,
    SchemaError,
    SinkExists,
    TutelageError,
)


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
            assert not torch.is_grad_enabled()
            seen.add(id(self))
            return {"x": batch}

    with Teacher(MemorySink(MemoryTopic())) as teacher:
        teacher.serve(
            Model().train(), torch.arange(20), batch_size=1, devices=["cpu", "cpu", "cpu"]
        )
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
        with (
            pytest.raises(ConfigurationError, match="gave no rows"),
            Teacher(FileSink(tmp_path / "a.avro")) as teacher,
        ):
            teacher.serve(lambda x: {"x": x}, inputs)
    assert not list(tmp_path.iterdir())


def test_the_order_of_calls_is_checked() -> None:
    teacher = Teacher(MemorySink(MemoryTopic()))
    for call in (
        lambda: teacher.write({}),
        lambda: teacher.send(1),
        teacher.recv,
        teacher.end_pass,
    ):
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
            Teacher(MemorySink(MemoryTopic()), **options)


def test_files_have_nobody_to_talk_to(tmp_path: Path) -> None:
    with Teacher(FileSink(tmp_path / "a.avro")) as teacher:
        for call in (lambda: teacher.send(1), lambda: teacher.recv(timeout_s=1)):
            with pytest.raises(ConfigurationError, match="carries no control messages"):
                call()


@pytest.mark.parametrize(("devices", "message"), [([], "empty"), (["cuda:0"], "no CUDA device")])
def test_devices_that_are_not_there_are_refused(devices: list[str], message: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with (
        pytest.raises(ConfigurationError, match=message),
        Teacher(MemorySink(MemoryTopic())) as teacher,
    ):
        teacher.serve(torch.nn.Identity(), torch.arange(4), batch_size=2, devices=devices)


def test_the_number_of_encoding_threads_is_pantheons_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert postprocess_threads() == 8
    monkeypatch.setenv("NUM_POSTPROCESS_THREADS", "3")
    assert postprocess_threads() == 3
    assert postprocess_threads(5) == 5
    for wrong in ("0", "-1", "many", "1e3"):
        monkeypatch.setenv("NUM_POSTPROCESS_THREADS", wrong)
        with pytest.raises(ConfigurationError, match="NUM_POSTPROCESS_THREADS"):
            postprocess_threads()


def test_a_model_that_returns_no_dict_is_told_so() -> None:
    with (
        pytest.raises(SchemaError, match="must return a dict"),
        Teacher(MemorySink(MemoryTopic())) as teacher,
    ):
        teacher.serve(torch.nn.Identity(), torch.arange(4), batch_size=2)


def test_errors_are_all_of_one_tree() -> None:
    import tutelage.schemas.errors as errors

    found = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert all(issubclass(error, TutelageError) and error.__doc__ for error in found)


def test_a_repr_reads_like_what_a_person_would_say() -> None:
    with Teacher(MemorySink(MemoryTopic(name="t1"))) as teacher:
        teacher.serve(lambda x: {"x": x}, torch.arange(4), batch_size=2)
        assert (
            repr(teacher)
            == "Teacher('t1' to MemorySink('t1', 1 partitions), 4 rows in 1 records written)"
        )


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


def test_a_model_that_drops_rows_says_so_or_is_refused() -> None:
    def even(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"x": batch if int(batch[0]) < 4 else batch[batch % 2 == 0]}

    with (
        pytest.raises(SchemaError, match="keeps_rows=False"),
        Teacher(MemorySink(MemoryTopic())) as teacher,
    ):
        teacher.serve(even, torch.arange(20), batch_size=4)
    topic = MemoryTopic()
    with pytest.raises(Stopped), Teacher(MemorySink(topic), rows_per_record=3) as teacher:
        teacher.serve(even, stopping(list(torch.arange(20).split(4)), 4), keeps_rows=False)
    with Teacher(MemorySink(topic), rows_per_record=3) as teacher:
        teacher.serve(even, list(torch.arange(20).split(4)), keeps_rows=False)
    assert read(topic) == [0, 1, 2, 3, *range(4, 20, 2)]


@pytest.mark.parametrize("lengths", [[1, 1], [4, 1], [-1, 4], [1.5, 1.5], [[1, 2]]])
def test_lengths_that_do_not_fit_their_values_are_refused(lengths: Any) -> None:
    from tutelage import Ragged

    with (
        pytest.raises(SchemaError, match="lengths must be whole numbers"),
        Teacher(MemorySink(MemoryTopic())) as teacher,
    ):
        teacher.write({"r": Ragged(np.zeros(3), np.array(lengths))})


def test_names_of_keys_the_model_does_not_give_are_refused() -> None:
    with (
        pytest.raises(SchemaError, match=r"wire or ragged_keys names \['logit'\]"),
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
        "from tutelage import MemorySink, MemoryTopic, Teacher\n"
        "def hanging():\n"
        "    yield torch.arange(2)\n"
        "    time.sleep(600)\n"
        "with Teacher(MemorySink(MemoryTopic())) as teacher:\n"
        "    teacher.serve(lambda x: {'x': x}, hanging, timeout_s=0.5)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert "WaitTimeout: waited" in done.stderr
    assert done.returncode == 1
