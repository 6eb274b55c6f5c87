"""A model may keep many buffers and fill one after the other: what is written is what it returned at each call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tutelage import FileSink, FileSource, Student, Teacher
from tutelage.producers.stages.model_outputs import Returned
from tutelage.schemas.errors import SchemaError

BATCHES = 300
SMALL, LARGE = 8, 50_000


def buffers(kind: str, count: int, width: int) -> Any:
    """A function that fills the next of `count` buffers with a number and returns it, or a view of it, in a new tensor."""
    arrays = [np.zeros((2, width), np.float32) for _ in range(count if kind == "numpy" else 0)]
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    tensors = [torch.zeros(3, width, dtype=dtype) for _ in range(0 if kind == "numpy" else count)]
    calls = 0

    def filled(value: float) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if arrays:
            arrays[calls % count][:] = value
            return torch.from_numpy(arrays[calls % count])
        tensors[calls % count][:2] = value
        return tensors[calls % count][:2]

    return filled


def written(path: Path, model: Any) -> list[int]:
    """The first number of each row that was written of 300 batches of 2 rows."""
    with Teacher(FileSink(path)) as teacher:
        teacher.serve(model, [torch.full((2,), float(index)) for index in range(BATCHES)])
    student = Student()
    student.register_teacher(FileSource(path))
    with student:
        return [int(row) for batch in student.knowledge(16) for row in batch["x"][:, 0]]


# bfloat16 holds whole numbers up to 256.
EXPECTED = [index % 251 for index in range(BATCHES) for _ in range(2)]


@pytest.mark.parametrize("kind", ["numpy", "float32", "bfloat16"])
@pytest.mark.parametrize("width", [SMALL, LARGE])
@pytest.mark.parametrize("count", [70, 100])
def test_more_buffers_than_are_watched_are_written_rightly(
    kind: str, width: int, count: int, tmp_path: Path
) -> None:
    filled = buffers(kind, count, width)
    assert (
        written(tmp_path / "a.avro", lambda batch: {"x": filled(float(batch[0]) % 251)}) == EXPECTED
    )


@pytest.mark.parametrize("count", [2, 70])
def test_views_of_buffers_that_a_model_begins_to_use_late_are_an_error(count: int) -> None:
    filled = buffers("bfloat16", count, LARGE)
    returned = Returned()
    for _ in range(100):
        returned.of_calls(iter([{"x": torch.rand(2, LARGE)}]), 1, owning=False)
    with pytest.raises(SchemaError, match=r"key 'x'.*clone\(\)"):
        for index in range(2 * count):
            # Nobody keeps the view, whose memory may still be on its way.
            returned.of_calls(iter([{"x": filled(index)}]), 1, owning=False)


def test_new_memory_that_lies_where_freed_memory_lay_is_used_as_it_is() -> None:
    returned = Returned()
    for _ in range(200):
        value = torch.rand(2, LARGE).mul_(2)
        (found,) = returned.of_calls(iter([{"x": value}]), 1, owning=False)
    assert found["x"] is value


def test_memory_of_numpy_is_copied_also_when_it_is_returned_late() -> None:
    returned = Returned()
    array = np.zeros((2, LARGE), np.float32)
    for _ in range(100):
        returned.of_calls(iter([{"x": torch.rand(2, LARGE)}]), 1, owning=False)
    (found,) = returned.of_calls(iter([{"x": torch.from_numpy(array)}]), 1, owning=False)
    array[:] = 1
    assert not found["x"].any()


def test_what_is_remembered_of_a_large_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from tutelage.producers.stages import model_outputs

    monkeypatch.setattr(model_outputs, "_MANY_LIVE", 8)
    monkeypatch.setattr(model_outputs, "_MOST_LIVE", 64)
    table = torch.arange(5000.0)
    returned = Returned()
    for index in range(5000):
        (found,) = returned.of_calls(iter([{"x": table[index : index + 1]}]), 1, owning=False)
    assert found["x"].data_ptr() == table[-1].data_ptr()
    assert len(returned._live) <= 2 * 64 + 1
