"""A head travels as a run of its own; a student takes only the one its states were made with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tutelage import (
    FileSink,
    FileSource,
    MemorySink,
    MemorySource,
    MemoryTopic,
    Student,
    Teacher,
    losses,
    write_head,
)
from tutelage.consumers.head_run import read_head
from tutelage.schemas.errors import ConfigurationError, CorruptData, RunMismatch, SinkExists

DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])


def head_of(
    vocabulary: int = 11,
    width: int = 6,
    dtype: torch.dtype = torch.float32,
    *,
    bias: bool = False,
    norm: str | None = None,
    seed: int = 0,
    **numbers: float,
) -> losses.Head:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    return losses.Head(
        weight=random(vocabulary + 3, width),
        bias=random(vocabulary + 3) if bias else None,
        norm=norm,  # type: ignore[arg-type]
        norm_weight=random(width) if norm else None,
        norm_bias=random(width) if norm == "layer" else None,
        vocabulary=vocabulary,
        **numbers,  # type: ignore[arg-type]
    )


@given(
    st.integers(1, 30),
    st.integers(1, 9),
    DTYPES,
    st.booleans(),
    st.sampled_from([None, "rms", "layer"]),
    st.sampled_from([{}, {"scale": 0.5}, {"softcap": 30.0}, {"eps": 1e-5}]),
)
def test_a_head_arrives_as_it_was_written(
    vocabulary: int,
    width: int,
    dtype: torch.dtype,
    bias: bool,
    norm: str | None,
    numbers: dict[str, float],
) -> None:
    head = head_of(vocabulary, width, dtype, bias=bias, norm=norm, **numbers)  # type: ignore[arg-type]
    topic = MemoryTopic(partitions=2)
    write_head(MemorySink(topic), head)
    found = read_head(MemorySource(topic))
    assert found.checksum() == head.checksum()
    hidden = torch.randn(4, width).to(dtype)
    assert torch.equal(found.logits(hidden), head.logits(hidden))


def hidden_topic(head: losses.Head | None, wire: str = "bfloat16") -> MemoryTopic:
    topic = MemoryTopic()
    checksum = head.checksum() if head is not None else ""
    with Teacher(MemorySink(topic), name="t", wire={"hidden": wire}, head=checksum) as teacher:
        teacher.write({"hidden": torch.randn(5, 3, 6)})
    return topic


@pytest.mark.parametrize("wire", ["bfloat16", "int8", "float16"])
def test_a_student_computes_the_loss_from_states_and_head(tmp_path: Path, wire: str) -> None:
    head = head_of()
    write_head(FileSink(tmp_path / "head.avro"), head)
    student = Student()
    student.register_teacher(MemorySource(hidden_topic(head, wire)))
    with student:
        taught = student.head(FileSource(tmp_path / "head.avro"))
        (batch,) = student.knowledge(5)
        assert student.stream_statuses()
    target = losses.Projection(batch["hidden"], taught)
    own = torch.randn(5, 3, 11, requires_grad=True)
    loss = losses.forward_kl(own, target)
    dense = losses.forward_kl(own, taught.logits(batch["hidden"]))
    assert torch.allclose(loss, dense, atol=1e-5)
    loss.backward()
    assert own.grad is not None


def test_a_head_that_is_not_the_teachers_is_refused() -> None:
    other = MemoryTopic()
    write_head(MemorySink(other), head_of(seed=1))
    for head, message in (
        (head_of(), r"not that of the teachers \(t names"),
        (None, r"\(t names none\) do not say which head .* it cannot be checked"),
    ):
        student = Student()
        student.register_teacher(MemorySource(hidden_topic(head)))
        with student, pytest.raises(RunMismatch, match=message):
            student.head(MemorySource(other))


def test_only_the_head_of_the_teachers_whose_states_are_used_is_given() -> None:
    mine, other = head_of(), head_of(seed=1)
    heads = {}
    for head in (mine, other):
        heads[head.checksum()] = topic = MemoryTopic()
        write_head(MemorySink(topic), head)
    for strategy, head, message in (
        ("first", mine, None),
        ("first", other, r"not that of the teachers \(t names"),
        # Each slice of the stack belongs to one teacher.
        ("stack", mine, None),
        ("stack", other, None),
        ("mean", mine, "states for different heads"),
        ("mean", other, "states for different heads"),
    ):
        student = Student({"hidden": strategy})
        for each in (mine, other):
            student.register_teacher(MemorySource(hidden_topic(each)))
        with student:
            source = MemorySource(heads[head.checksum()])
            if message is None:
                assert student.head(source).checksum() == head.checksum()
            else:
                with pytest.raises(RunMismatch, match=message):
                    student.head(source)
            with pytest.raises(
                ConfigurationError, match="no teacher has key 'states', only 'hidden'"
            ):
                student.head(source, key="states")


def test_a_run_that_is_no_head_is_refused() -> None:
    with pytest.raises(CorruptData, match="is no head: it lacks norm, settings, weight"):
        read_head(MemorySource(hidden_topic(None)))


def test_a_head_whose_weight_was_changed_is_refused() -> None:
    head = head_of()
    topic = MemoryTopic()

    class Changed:
        """A head that says the checksum of another."""

        vocabulary = head.vocabulary
        weight = head.weight + 1

        def tensors(self) -> dict[str, torch.Tensor]:
            return {"weight": self.weight}

        def numbers(self) -> dict[str, object]:
            return head.numbers()

        def checksum(self) -> str:
            return head.checksum()

    write_head(MemorySink(topic), Changed())
    with pytest.raises(CorruptData, match=f"but {head.checksum()} was written with it"):
        read_head(MemorySource(topic))


def test_a_head_is_written_once(tmp_path: Path) -> None:
    for _ in range(2):
        write_head(FileSink(tmp_path / "head.avro"), head_of())
    with pytest.raises(SinkExists):
        write_head(FileSink(tmp_path / "head.avro"), head_of(seed=1))


def test_a_student_that_is_not_started_knows_no_head() -> None:
    with pytest.raises(ConfigurationError, match="not started"):
        Student().head(MemorySource(MemoryTopic()))


def test_a_run_that_was_begun_for_another_head_is_not_continued(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        Teacher(FileSink(tmp_path / "t.avro"), head="aa", rows_per_record=1) as teacher,
    ):
        teacher.write({"hidden": torch.zeros(2, 3)})
        raise KeyboardInterrupt
    with pytest.raises(SinkExists, match="head 'aa' there, 'bb' here"):
        Teacher(FileSink(tmp_path / "t.avro"), head="bb", rows_per_record=1).start()
