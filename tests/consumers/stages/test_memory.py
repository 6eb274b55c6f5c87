"""A batch keeps its values as long as it is referenced, whatever happens to other batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage import FileSink, FileSource, MemorySink, MemorySource, MemoryTopic, Student, Teacher


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.booleans())
@settings(max_examples=25, deadline=None)
def test_batches_that_are_kept_stay_what_they_were(
    tmp_path_factory: pytest.TempPathFactory, keep: list[bool], merged: bool
) -> None:
    path: Path = tmp_path_factory.mktemp("kept") / "a.avro"
    width = 4096
    rows = np.arange(len(keep) * 4)
    with Teacher(FileSink(path), rows_per_record=3) as teacher:
        teacher.serve(
            lambda x: {"x": x[:, None].expand(-1, width).to(torch.float32)},
            torch.from_numpy(rows),
            batch_size=4,
        )
    student = Student({"x": "mean"} if merged else None)
    student.register_teacher(FileSource(path))
    if merged:
        student.register_teacher(FileSource(str(path) + "x"))
        Path(str(path) + "x").write_bytes(path.read_bytes())
    kept: list[tuple[int, torch.Tensor]] = []
    with student:
        for index, batch in enumerate(student.knowledge(4)):
            if keep[index]:
                kept.append((index, batch["x"]))
            del batch
    for index, tensor in kept:
        wanted = torch.arange(4 * index, 4 * index + 4, dtype=torch.float32)[:, None].expand(
            -1, width
        )
        assert torch.equal(tensor, wanted)


def test_a_batch_may_be_written_into() -> None:
    topic = MemoryTopic(name="t")
    with Teacher(MemorySink(topic), rows_per_record=5) as teacher:
        teacher.write({"x": torch.arange(30)})
    student = Student()
    student.register_teacher(MemorySource(topic))
    found = []
    with student:
        for batch in student.knowledge(4):
            found += batch["x"].tolist()
            batch["x"].fill_(-1)
    assert found == list(range(30))


def test_batches_with_memory_of_their_own_share_none() -> None:
    topic = MemoryTopic(name="t")
    with Teacher(MemorySink(topic)) as teacher:
        teacher.write({"x": torch.arange(12)})
    student = Student()
    student.register_teacher(MemorySource(topic))
    with student:
        shared = [batch["x"] for batch in student.knowledge(4)]
        own = [batch["x"] for batch in student.knowledge(4, own_memory=True)]
    # Shared batches are adjacent in memory; own batches are allocated one by one.
    assert [tensor.data_ptr() - shared[0].data_ptr() for tensor in shared] == [0, 32, 64]
    assert all(one.data_ptr() + 32 != other.data_ptr() for one in own for other in own)
