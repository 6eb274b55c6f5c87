"""Where a student is can be kept and gone on from; what does not fit is refused, and not forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.teaching import student_of, teach, xs

from tutelage import MemorySink, MemoryTopic
from tutelage.consumers.checkpoint_file import load_checkpoint, save_checkpoint
from tutelage.schemas.errors import (
    ConfigurationError,
    CorruptData,
    RunMismatch,
)


def test_a_dataset_goes_on_from_its_state(topic: MemoryTopic) -> None:
    with student_of(topic) as student:
        dataset = student.dataset(6)
        batches = iter(dataset)
        next(batches)
        state = dataset.state_dict()
        batches.close()  # type: ignore[attr-defined]  # torch's Iterator names no close
    with student_of(topic) as student:
        dataset = student.dataset(6)
        dataset.load_state_dict(state)
        assert [batch["x"].tolist()[0] for batch in dataset] == [6, 12, 18]


def test_a_checkpoint_is_the_old_or_the_new_one_and_is_checked(
    topic: MemoryTopic, tmp_path: Path
) -> None:
    path = tmp_path / "student.json"
    with student_of(topic) as student:
        batches = student.knowledge(6)
        next(batches)
        student.save(path)
        batches.close()
    other = MemoryTopic(name="other", partitions=2)
    teach(MemorySink(other))
    for made, arguments, message in (
        (student_of(topic), {"batch_size": 7}, "batch_size was 6, is 7"),
        (student_of(topic), {"batch_size": 6, "drop_last": True}, "drop_last was False, is True"),
        (student_of(other), {"batch_size": 6}, "run_id"),
    ):
        with made as student:
            student.load(path)
            with pytest.raises(RunMismatch, match=message):
                student.knowledge(**arguments)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="1 teachers, the student 2"):
        student_of(topic, other).load(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["student.json"]


def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    for content in ("", "{", "[]", '{"version": 99}', "\x00"):
        path.write_text(content)
        with pytest.raises(CorruptData, match=r"c\.json"):
            load_checkpoint(path)
    for wrong in (tmp_path / "none.json", tmp_path):
        with pytest.raises(ConfigurationError):
            load_checkpoint(wrong)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        save_checkpoint(tmp_path / "no" / "folder.json", {})


def test_a_refused_checkpoint_is_not_forgotten(topic: MemoryTopic) -> None:
    with student_of(topic) as student:
        batches = student.knowledge(4)
        next(batches)
        state = student.state_dict()
        batches.close()
    with student_of(topic) as student:
        student.load_state_dict(state)
        for _ in range(2):
            with pytest.raises(RunMismatch, match="batch_size"):
                student.knowledge(8)
        assert xs(student.knowledge(4))[0] == [4, 5, 6, 7]


def test_a_state_behind_the_last_pass_says_so_and_the_next_call_begins_again(
    topic: MemoryTopic,
) -> None:
    with student_of(topic) as student:
        list(student.knowledge(4))
        state = student.state_dict()
        assert state["pass_index"] == student.passes
    with student_of(topic) as student:
        student.load_state_dict(state)
        assert student.state_dict()["pass_index"] == 1
        assert len(xs(student.knowledge(4))) == 5


@pytest.mark.parametrize("state", [{"version": 1}, {"sources": [{}]}, {"sources": 1}])
def test_a_state_with_holes_is_refused(topic: MemoryTopic, state: dict[str, Any]) -> None:
    from tutelage.schemas.errors import TutelageError

    with student_of(topic) as student, pytest.raises(TutelageError):
        student.load_state_dict(state)
        student.knowledge(4)
