"""Rows that teachers did not answer: an error, left out, or taken from the teacher that did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tutelage import (
    ConfigurationError,
    FileSink,
    FileSource,
    KnowledgeFiles,
    MergeError,
    QueryUnanswered,
    Sampled,
    Student,
    Teacher,
)
from tutelage.schemas.queries import ANSWERED, GIVEN_UP, NOT_MINE, QUERY_STATUS

VOCABULARY = 7
STATUSES = st.sampled_from([ANSWERED, ANSWERED, NOT_MINE, GIVEN_UP])


def _write(path: Path, teacher: int, statuses: list[int]) -> None:
    """What a teacher answers to each row: dense, sampled and ragged; nothing, where it did not."""
    rows = len(statuses)
    numbers = torch.arange(rows)
    answered = torch.tensor(statuses) == ANSWERED
    knowledge: dict[str, Any] = {
        "row": numbers,
        "y": torch.where(answered, 100 * teacher + numbers, 0),
        "logits": torch.nn.functional.one_hot(numbers % VOCABULARY, VOCABULARY).float()
        * torch.where(answered, 50.0, 0.0)[:, None],
        "v": [
            torch.full((int(row) % 3 + 1,), 100 * teacher + int(row))[
                : None if answered[row] else 0
            ]
            for row in numbers
        ],
        QUERY_STATUS: torch.tensor(statuses, dtype=torch.int8),
    }
    with Teacher(
        FileSink(path, overwrite=True),
        rows_per_record=2,
        wire={"logits": Sampled(5)},
        ragged_keys=["v"],
    ) as writer:
        writer.write(knowledge)


def _queries(path: Path, rows: int) -> None:
    with Teacher(FileSink(path, overwrite=True), rows_per_record=2) as writer:
        writer.write({"row": torch.arange(rows), "x": torch.arange(rows) * 3})


def _student(folder: Path, teachers: int, **options: Any) -> Student:
    merge = {"row": "first", **dict.fromkeys(("y", "logits", "v"), "answered")}
    student = Student(merge, sample_id="row", **options)
    for name in ["queries", *map(str, range(teachers))]:
        student.register_teacher(FileSource(folder / f"{name}.avro"))
    return student


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_batches_hold_the_answers_of_the_first_teacher_that_answered_and_nothing_else(
    tmp_path: Path, data: st.DataObject
) -> None:
    rows = data.draw(st.integers(1, 9))
    teachers = data.draw(st.integers(1, 3))
    size = data.draw(st.integers(1, 4))
    statuses = [
        data.draw(st.lists(STATUSES, min_size=rows, max_size=rows)) for _ in range(teachers)
    ]
    _queries(tmp_path / "queries.avro", rows)
    for teacher, each in enumerate(statuses):
        _write(tmp_path / f"{teacher}.avro", teacher, each)
    owners = []
    for row in range(rows):
        column = [each[row] for each in statuses]
        owners.append(
            None if GIVEN_UP in column or ANSWERED not in column else column.index(ANSWERED)
        )
    with _student(tmp_path, teachers, on_unanswered="skip") as student:
        batches = list(student.knowledge(size))
    assert len(batches) == -(-rows // size)
    for number, batch in enumerate(batches):
        kept = [
            row
            for row in range(number * size, min(rows, (number + 1) * size))
            if owners[row] is not None
        ]
        assert batch["row"].tolist() == kept
        assert batch["x"].tolist() == [3 * row for row in kept]
        expected = [100 * (owners[row] or 0) + row for row in kept]
        assert batch["y"].tolist() == expected
        assert batch["v.lengths"].tolist() == [row % 3 + 1 for row in kept]
        for row, value, values in zip(kept, expected, batch["v"], strict=True):
            assert values[: row % 3 + 1].tolist() == [value] * (row % 3 + 1)
        assert QUERY_STATUS not in batch
        assert batch["logits"].dense().argmax(-1).tolist() == [row % VOCABULARY for row in kept]
    with _student(tmp_path, teachers) as student:
        if None in owners:
            with pytest.raises(QueryUnanswered, match=f"row {owners.index(None)}: "):
                list(student.knowledge(size))
        else:
            assert sum(len(batch["row"]) for batch in student.knowledge(size)) == rows


def test_only_answered_takes_rows_that_a_teacher_did_not_answer(tmp_path: Path) -> None:
    _write(tmp_path / "0.avro", 0, [ANSWERED, NOT_MINE])
    _write(tmp_path / "1.avro", 1, [NOT_MINE, ANSWERED])
    for strategy in ("mean", "first", "same", "stack"):
        student = Student(
            {"row": "first", "y": strategy, "v": "answered", "logits": "answered"}, sample_id="row"
        )
        for name in "01":
            student.register_teacher(FileSource(tmp_path / f"{name}.avro"))
        with student, pytest.raises(MergeError, match=r"key 'y', row [01]: .*'answered'"):
            list(student.knowledge(2))


def test_a_key_of_one_teacher_is_not_made_up_for_the_rows_of_another(tmp_path: Path) -> None:
    _write(tmp_path / "0.avro", 0, [ANSWERED, NOT_MINE])
    with Teacher(FileSink(tmp_path / "1.avro"), rows_per_record=2) as writer:
        writer.write(
            {"row": torch.arange(2), "z": torch.ones(2), QUERY_STATUS: torch.tensor([1, 0]).char()}
        )
    student = Student({"row": "first"}, sample_id="row")
    for name in "01":
        student.register_teacher(FileSource(tmp_path / f"{name}.avro"))
    with student, pytest.raises(MergeError, match="key 'y', row 1: .*for another teacher"):
        list(student.knowledge(2))


def test_answered_needs_the_same_form_of_all(tmp_path: Path) -> None:
    for name, dtype in (("0", torch.float32), ("1", torch.float16)):
        with Teacher(FileSink(tmp_path / f"{name}.avro")) as writer:
            writer.write({"y": torch.ones(2, dtype=dtype)})
    student = Student({"y": "answered"})
    for name in "01":
        student.register_teacher(FileSource(tmp_path / f"{name}.avro"))
    with student, pytest.raises(MergeError, match="one dtype, shape and encoding"):
        list(student.knowledge(2))


def test_a_users_own_key_of_that_name_and_another_type_is_a_key_like_any_other(
    tmp_path: Path,
) -> None:
    with Teacher(FileSink(tmp_path / "0.avro")) as writer:
        writer.write({QUERY_STATUS: torch.tensor([1.0, 2.0])})
    student = Student()
    student.register_teacher(FileSource(tmp_path / "0.avro"))
    with student:
        (batch,) = student.knowledge(2)
    assert batch[QUERY_STATUS].tolist() == [1.0, 2.0]


def test_rows_of_files_in_any_order_follow_the_same_rules(tmp_path: Path) -> None:
    _write(tmp_path / "0.avro", 0, [ANSWERED, NOT_MINE, ANSWERED])
    _write(tmp_path / "1.avro", 1, [NOT_MINE, ANSWERED, GIVEN_UP])
    merge = {"row": "first", **dict.fromkeys(("y", "logits", "v"), "answered")}
    with KnowledgeFiles.merged(
        [tmp_path / "0.avro", tmp_path / "1.avro"], merge=merge, sample_id="row"
    ) as dataset:
        assert dataset[[1, 0]]["y"].tolist() == [101, 0]
        with pytest.raises(QueryUnanswered, match="row 2: "):
            dataset[[0, 2]]


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Student(on_unanswered="drop"), "on_unanswered"),  # type: ignore[arg-type]
        (lambda: _weighted(), "weight_key"),
    ],
)
def test_mistakes_are_named(make: Callable[[], Any], what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        make()


def _weighted() -> None:
    Student(on_unanswered="skip").knowledge(2, weight_key="weight")
