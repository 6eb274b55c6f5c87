"""`versions` in a teacher's fingerprint, and students and other teachers that compare them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tutelage import ConfigurationError, FileSink, FileSource, RunMismatch, Student, Teacher
from tutelage.augmentation import check_versions, versions


def write(path: Path, fingerprint: str) -> FileSource:
    with Teacher(FileSink(path), inputs_fingerprint=fingerprint) as teacher:
        teacher.write({path.stem: torch.zeros(2, 1)})
    return FileSource(path)


def fingerprint_of(source: FileSource) -> str:
    return source.open(60).stream.inputs_fingerprint


def test_they_name_the_installed_libraries() -> None:
    text = versions("xxhash")
    assert f"numpy={np.__version__}" in text
    assert f"torch={torch.__version__.partition('+')[0]} " in text and "xxhash=" in text
    assert versions("torch", "xxhash") == text


def test_a_student_with_the_same_versions_may_repeat_a_teacher_s_seeds(tmp_path: Path) -> None:
    source = write(tmp_path / "a.avro", f"images, seeds 1; {versions('xxhash')}")
    check_versions(fingerprint_of(source))


def test_a_student_with_other_versions_is_told_which(tmp_path: Path) -> None:
    text = versions().replace("numpy=", "numpy=0.").replace("]", " no-such-library=1.2]")
    source = write(tmp_path / "a.avro", text)
    with pytest.raises(RunMismatch, match=r"numpy 0\..* here; no-such-library 1.2 there, not inst"):
        check_versions(fingerprint_of(source))


def test_teachers_of_other_versions_are_not_merged(tmp_path: Path) -> None:
    student = Student()
    student.register_teacher(write(tmp_path / "a.avro", versions()))
    student.register_teacher(write(tmp_path / "b.avro", versions().replace("numpy=", "numpy=0.")))
    with student, pytest.raises(RunMismatch, match="read different inputs"):
        _ = student.passes


def test_a_fingerprint_without_versions_is_an_error_that_says_how_they_come_in() -> None:
    with pytest.raises(ConfigurationError, match="names no versions"):
        check_versions("images, seeds 1")


@pytest.mark.parametrize("name", ["no-such-library", "", "a b", "pillow]", 7])
def test_a_library_that_is_not_there_is_an_error(name: str) -> None:
    with pytest.raises(ConfigurationError):
        versions(name)
