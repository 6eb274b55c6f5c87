"""A loader that fetches ahead: what was trained on is saved, not what was fetched."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support.teaching import student_of, teach
from torch.utils.data import DataLoader

from tutelage import ConfigurationError, FileSink, FileSource, MemorySink, MemoryTopic, Student


def rest_of(topic: MemoryTopic, state: dict[str, Any], passes: int = 1) -> list[list[int]]:
    """The batches behind a state."""
    with student_of(topic) as student:
        student.load_state_dict(json.loads(json.dumps(state)))
        return [batch["x"].tolist() for _ in range(passes) for batch in student.knowledge(6)]


def test_behind_every_batch_the_rest_of_the_pass_is_given(topic: MemoryTopic) -> None:
    with student_of(topic) as student:
        batches = list(student.knowledge(6, position_key="at"))
        whole = [batch["x"].tolist() for batch in batches]
        for index, batch in enumerate(batches):
            assert batch["at"].dtype == torch.int64
            assert batch["at"].tolist() == [0, index + 1, min(20, 6 * index + 6), 6]
            for at in (batch["at"], batch["at"].tolist()):
                assert rest_of(topic, student.state_dict(at=at)) == whole[index + 1 :]


def test_a_batch_of_the_pass_before_is_a_place_too() -> None:
    topic = MemoryTopic(name="t", partitions=3)
    teach(MemorySink(topic), 20, passes=2)
    with student_of(topic) as student:
        first, second = (list(student.knowledge(6, position_key="at")) for _ in range(2))
        whole = [batch["x"].tolist() for batch in (*first, *second)]
        for index, batch in enumerate((*first, *second)):
            passes = 2 if index < len(first) else 1
            assert rest_of(topic, student.state_dict(at=batch["at"]), passes) == whole[index + 1 :]


def test_a_loader_that_has_begun_the_first_pass_again_does_not_hide_the_last_one() -> None:
    topic = MemoryTopic(name="t", partitions=3)
    teach(MemorySink(topic), 20, passes=2)
    with student_of(topic) as student:
        first, second = (list(student.knowledge(6, position_key="at")) for _ in range(2))
        again = student.knowledge(6, position_key="at")
        next(again)
        for index, batch in enumerate(second):
            rest = [later["x"].tolist() for later in second[index + 1 :]]
            assert rest_of(topic, student.state_dict(at=batch["at"])) == rest
        assert rest_of(topic, student.state_dict(at=first[1]["at"])) == [
            batch["x"].tolist() for batch in first[2:]
        ]
        again.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_in_a_loader_with_workers_the_place_is_that_of_the_batch_that_was_trained_on(
    tmp_path: Path, workers: int
) -> None:
    path = tmp_path / "t.avro"
    teach(FileSink(path))
    student = Student()
    student.register_teacher(FileSource(path))
    with student:
        loader = DataLoader(
            student.dataset(6, position_key="at"), batch_size=None, num_workers=workers
        )
        batches = iter(loader)
        trained = [next(batches), next(batches)]
        student.save(tmp_path / "student.json", at=trained[-1]["at"])
        expected = [batch["x"].tolist() for batch in batches]
        del batches
    other = Student()
    other.register_teacher(FileSource(path))
    with other:
        other.load(tmp_path / "student.json")
        assert [batch["x"].tolist() for batch in other.knowledge(6)] == expected


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ([0, 3, 18, 6], "behind batch 3 of pass 0, but only 2 batches of pass 0 were given"),
        ([0, 2, 13, 6], "13 rows in 2 batches of pass 0, which is no place in 1 passes"),
        ([0, 2, 6, 6], "6 rows in 2 batches of pass 0, which is no place"),
        ([1, 1, 6, 6], "6 rows in 1 batches of pass 1, which is no place in 1 passes"),
        ([0, 0, 6, 6], "is no place"),
        ([0, -1, 6, 6], "it must be what a batch has under position_key"),
        ([0, 1, 6], "it must be what a batch has under position_key"),
        ("0, 1, 6", "it must be what a batch has under position_key"),
        (torch.tensor([0.0, 1.0, 6.0]), "it must be what a batch has under position_key"),
    ],
    ids=str,
)
def test_what_is_no_place_is_refused(topic: MemoryTopic, at: Any, said: str) -> None:
    with student_of(topic) as student:
        batches = student.knowledge(6)
        next(batches), next(batches)
        with pytest.raises(ConfigurationError, match=re.escape(said)):
            student.state_dict(at=at)
        batches.close()
