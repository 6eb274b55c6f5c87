"""Batches behave like those of any DataLoader: changing one in place does not affect the others."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch

from tutelage import FileSink, FileSource, Student, Teacher
from tutelage.consumers.stages.batches import Batches


def write(path: Path, **knowledge: Any) -> Path:
    """A file of one batch."""
    with Teacher(FileSink(path), rows_per_record=4) as teacher:
        teacher.write(knowledge)
    return path


def student_of(*paths: Path, **options: Any) -> Student:
    """A student of files."""
    student = Student(timeout_s=20, **options)
    for path in paths:
        student.register_teacher(FileSource(path))
    return student


STRATEGIES = [
    None,
    "mean",
    "sum",
    "max",
    "stack",
    "concat",
    pytest.param(lambda tensors: tensors[0][:, :2], id="a view of one"),
    pytest.param(lambda tensors: tensors[0] + tensors[1], id="a new tensor"),
]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("own_memory", [False, True])
def test_preprocessing_a_batch_in_place_leaves_the_backward_pass_of_others_alone(
    tmp_path: Path, strategy: Any, own_memory: bool
) -> None:
    x = torch.arange(36.0).reshape(12, 3)
    paths = [write(tmp_path / name, x=x) for name in (("a", "b") if strategy else ("a",))]
    weight, loss = torch.nn.Parameter(torch.ones(1)), torch.zeros(())
    expected = torch.zeros(())
    with student_of(*paths, merge={"x": strategy} if strategy else None) as student:
        for batch in student.knowledge(4, own_memory=own_memory):
            given = batch["x"]
            assert given._version == 0
            expected = expected + (given - 0.5).sum()
            loss = loss + (weight * given.sub_(0.5)).sum()
        loss.backward()
    assert weight.grad is not None
    assert weight.grad.item() == expected.item()


def test_ragged_batches_may_be_changed_in_place_too(tmp_path: Path) -> None:
    rows = [torch.arange(float(length)) for length in (2, 1, 3, 0, 1, 2, 2, 1)]
    with Teacher(FileSink(tmp_path / "r"), rows_per_record=4, ragged_keys=["r"]) as teacher:
        teacher.write({"r": rows})
    with student_of(tmp_path / "r") as student:
        for batch in student.knowledge(4):
            for tensor in batch.values():
                tensor.detach_()
                assert tensor._version == 0
            batch["r"].requires_grad_().sum().backward()


@pytest.mark.parametrize(
    "dtype", ["float32", "bfloat16", "float8_e4m3fn", "bool", "int64", "uint16", "complex128"]
)
def test_whatever_can_be_done_to_a_tensor_of_its_own_can_be_done_to_a_batchs(dtype: str) -> None:
    column = torch.arange(24).reshape(12, 2).to(getattr(torch, dtype))
    before = column.clone()
    first, second, third = (batch["x"] for batch in Batches({"x": column}, 12, 5))
    assert [len(first), len(second), len(third)] == [5, 5, 2]
    assert [each.dtype for each in (first, second, third)] == [column.dtype] * 3
    assert second.detach_() is second
    second.view(-1).unsqueeze_(0)
    second.resize_(2, 5).t_()
    second.copy_(second + second if dtype not in ("bool", "uint16", "float8_e4m3fn") else second)
    assert (first._version, third._version) == (0, 0)
    for each, rows in ((first, slice(0, 5)), (third, slice(10, 12))):
        assert each.view(torch.uint8).equal(before[rows].view(torch.uint8))
    # A larger tensor would include the next batch's rows.
    with pytest.raises(RuntimeError, match="not resizable"):
        first.resize_(6, 2)
    if column.dtype.is_floating_point and dtype != "float8_e4m3fn":
        first.requires_grad_()
        assert not third.requires_grad


def test_a_batch_that_is_saved_or_shared_takes_no_other_along() -> None:
    column = torch.zeros(100_000, 2)
    batch = next(iter(Batches({"x": column}, 100_000, 4)))
    file = io.BytesIO()
    torch.save(batch, file)
    assert file.tell() < 4096
    assert batch["x"].untyped_storage().nbytes() == 32
    assert batch["x"].data_ptr() == column.data_ptr()


@pytest.mark.gpu
def test_pinned_batches_are_parts_of_one_block_and_have_versions_of_their_own() -> None:
    column = torch.zeros(12, 2, pin_memory=True)
    first, second, third = (batch["x"] for batch in Batches({"x": column}, 12, 5, pinned=True))
    assert first.is_pinned() and third.is_pinned()
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    second.detach_().add_(1)
    assert (first._version, second._version, third._version) == (0, 1, 0)
