"""Files and links that somebody else puts in the way of what is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tutelage import FileSink, Teacher
from tutelage.consumers.checkpoint_file import load_checkpoint, save_checkpoint
from tutelage.schemas.disk import file_path, new_file
from tutelage.schemas.errors import ConfigurationError, SinkExists, TutelageError

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of other users")


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A folder like /tmp, and in its parent a file to be protected."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    (tmp_path / "mine").write_text("precious")
    yield folder
    assert (tmp_path / "mine").read_text() == "precious"


def write(path: Path, *, overwrite: bool = False) -> None:
    with Teacher(FileSink(path, overwrite=overwrite)) as teacher:
        teacher.write({"x": torch.arange(4)})


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("target", ["mine", "not there"])
def test_a_link_at_the_unfinished_name_is_not_followed(
    shared: Path, target: str, overwrite: bool
) -> None:
    (shared / "t.avro.partial").symlink_to(shared.parent / target)
    with pytest.raises(SinkExists, match=r"t\.avro\.partial is a symbolic link"):
        write(shared / "t.avro", overwrite=overwrite)
    assert not (shared / "t.avro").exists() and not (shared.parent / "not there").exists()


def test_another_run_s_file_behind_a_link_at_the_unfinished_name_is_not_continued(
    shared: Path,
) -> None:
    teacher = Teacher(FileSink(shared.parent / "other.avro"), rows_per_record=2)
    with pytest.raises(RuntimeError, match="on purpose"), teacher:
        teacher.write({"x": torch.arange(4)})
        raise RuntimeError("on purpose")
    other = shared.parent / "other.avro.partial"
    before = other.read_bytes()
    (shared / "t.avro.partial").symlink_to(other)
    with pytest.raises(SinkExists, match="symbolic link"):
        write(shared / "t.avro")
    assert before and other.read_bytes() == before


@needs_root
def test_an_unfinished_file_of_another_user_in_a_shared_folder_is_refused(shared: Path) -> None:
    planted = shared / "t.avro.partial"
    planted.touch()
    os.chown(planted, NOBODY, NOBODY)
    with pytest.raises(SinkExists, match="belongs to another user"):
        write(shared / "t.avro")
    assert planted.read_bytes() == b""


@needs_root
def test_a_finished_name_that_another_user_linked_in_a_shared_folder_is_refused(
    shared: Path,
) -> None:
    for name in ("t.avro", "checkpoint.json"):
        link = shared / name
        link.symlink_to(shared.parent / "mine")
        os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(ConfigurationError, match="symbolic link that another user made"):
        write(shared / "t.avro")
    with pytest.raises(ConfigurationError, match="symbolic link that another user made"):
        save_checkpoint(shared / "checkpoint.json", {"version": 2})
    with pytest.raises(ConfigurationError, match="symbolic link that another user made"):
        load_checkpoint(shared / "checkpoint.json")


def test_a_link_of_one_s_own_is_followed(shared: Path) -> None:
    (shared / "t.avro").symlink_to(shared.parent / "elsewhere.avro")
    write(shared / "t.avro")
    assert (shared / "t.avro").is_symlink() and (shared.parent / "elsewhere.avro").is_file()
    assert file_path("path", shared / "t.avro") == shared.parent / "elsewhere.avro"


def test_a_checkpoint_s_temporary_name_cannot_be_guessed(shared: Path) -> None:
    target = shared / "checkpoint.json"
    names = set()
    for _ in range(100):
        descriptor, path = new_file(target)
        os.close(descriptor)
        names.add(path.name)
        path.unlink()
    assert len(names) == 100
    assert all(len(name) > len("checkpoint.json..tmp") + 15 for name in names)


def test_a_link_at_a_temporary_name_is_not_followed(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the name were guessed."""
    monkeypatch.setattr("secrets.token_hex", lambda nbytes: "guessed")
    (shared / "checkpoint.json.guessed.tmp").symlink_to(shared.parent / "mine")
    with pytest.raises(TutelageError, match=r"checkpoint\.json cannot be written: File exists"):
        save_checkpoint(shared / "checkpoint.json", {"version": 2})
    assert not (shared / "checkpoint.json").exists()
