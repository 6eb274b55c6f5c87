"""The promise: whatever batches, partitions, devices, threads and records, files and topics give a student the same output."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.resume import assert_resumes_anywhere

from tutelage import (
    FileSink,
    FileSource,
    MemorySink,
    MemorySource,
    MemoryTopic,
    Sink,
    Source,
    Student,
    Teacher,
)
from tutelage.examples.toy.reader import GENERATOR_TYPES, inputs_of
from tutelage.examples.toy.teachers import Teacher1, Teacher2
from tutelage.schemas.container_format import check_codec

BATCH_SIZES = st.sampled_from([1, 7, 32, 1000])
STUDENT_SIZES = st.sampled_from([1, 5, 32, 64])
LENGTHS = st.sampled_from([1, 31, 32, 33, 1000])


@st.composite
def teacher_ways(draw: st.DrawFn) -> dict[str, int | str | None]:
    """One way to run a teacher."""
    return {
        "batch_size": draw(BATCH_SIZES),
        "partitions": draw(st.sampled_from([1, 3, 4, 8])),
        "devices": draw(st.integers(1, 3)),
        "threads": draw(st.integers(1, 8)),
        "rows_per_record": draw(st.none() | st.integers(1, 2000)),
        "generator_type": draw(st.sampled_from(GENERATOR_TYPES)),
        "codec": draw(st.sampled_from(["null", "zstandard"])),
    }


def taught(
    sink: Sink,
    model: torch.nn.Module,
    max_n: int,
    way: dict[str, int | str | None],
    passes: int = 1,
) -> None:
    rows_per_record = way["rows_per_record"]
    assert rows_per_record is None or isinstance(rows_per_record, int)
    with Teacher(sink, rows_per_record=rows_per_record, passes=passes) as teacher:
        teacher.serve(
            model,
            inputs_of(
                str(way["generator_type"]), max_n=max_n, batch_size=int(way["batch_size"] or 1)
            ),
            devices=["cpu"] * int(way["devices"] or 1),
            threads=int(way["threads"] or 1),
        )


def expected(max_n: int, batch_size: int, strategy: str) -> list[dict[str, torch.Tensor]]:
    batches = []
    for x in torch.arange(max_n).reshape(-1, 1).split(batch_size):
        result = 4 * x if strategy == "sum" else 2 * x.double()
        batches.append({"x": x, "2x-1": 2 * x - 1, "result": result, "2x+1": 2 * x + 1})
    return batches


def learned(sources: list[Source], batch_size: int, strategy: str) -> list[dict[str, torch.Tensor]]:
    student = Student(merge={"result": strategy}, timeout_s=30)
    for source in sources:
        student.register_teacher(source)
    with student:
        return list(student.knowledge(batch_size))


@given(
    way1=teacher_ways(),
    way2=teacher_ways(),
    max_n=LENGTHS,
    batch_size=STUDENT_SIZES,
    strategy=st.sampled_from(["sum", "mean"]),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_way_of_teaching_gives_the_same_batches_in_every_mode(
    tmp_path_factory: pytest.TempPathFactory,
    way1: dict[str, int | str | None],
    way2: dict[str, int | str | None],
    max_n: int,
    batch_size: int,
    strategy: str,
) -> None:
    folder = tmp_path_factory.mktemp("modes")
    wanted = expected(max_n, batch_size, strategy)
    files: list[Source] = []
    topics: list[Source] = []
    for index, (model, way) in enumerate(((Teacher1(), way1), (Teacher2(), way2))):
        path = folder / f"{index}.avro"
        taught(FileSink(path, codec=check_codec(str(way["codec"]))), model, max_n, way)
        topic = MemoryTopic(name=f"t{index}", partitions=int(way["partitions"] or 1))
        taught(MemorySink(topic), model, max_n, way)
        files.append(FileSource(path))
        topics.append(MemorySource(topic))
    for sources in (files, topics, [files[0], topics[1]]):
        found = learned(sources, batch_size, strategy)
        assert len(found) == len(wanted)
        for batch, right in zip(found, wanted, strict=True):
            assert list(batch) == list(right)
            assert all(
                torch.equal(batch[key], right[key]) and batch[key].dtype == right[key].dtype
                for key in right
            )


@pytest.mark.parametrize(("batch_size", "drop_last"), [(5, False), (5, True), (32, False)])
@pytest.mark.parametrize("rows_per_record", [1, 4, 7, 100])
def test_a_student_resumes_at_any_batch_of_any_pass(
    tmp_path: Path, batch_size: int, drop_last: bool, rows_per_record: int
) -> None:
    way: dict[str, int | str | None] = {
        "batch_size": 6, "devices": 1, "threads": 1, "rows_per_record": rows_per_record, "generator_type": "batch_generator",
    }  # fmt: skip
    topic = MemoryTopic(partitions=3)
    taught(FileSink(tmp_path / "a.avro"), Teacher1(), 33, way, passes=2)
    taught(MemorySink(topic), Teacher2(), 33, {**way, "rows_per_record": 5}, passes=2)

    def make() -> Student:
        student = Student(merge={"result": "mean"}, timeout_s=10)
        student.register_teacher(FileSource(tmp_path / "a.avro"))
        student.register_teacher(MemorySource(topic))
        return student

    batches = assert_resumes_anywhere(make, batch_size, drop_last=drop_last, passes=2)
    rows = 33 // batch_size * batch_size if drop_last else 33
    assert [row for batch in batches for row in batch["x"]] == [[x] for x in range(rows)] * 2
