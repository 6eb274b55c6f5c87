"""Checkpoints: written where they were meant to be, whole or not at all, and never half a file beside them."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tutelage.consumers.checkpoint_file import VERSION, load_checkpoint, save_checkpoint
from tutelage.schemas.errors import ConfigurationError, CorruptData

STATE = {"version": VERSION, "batch_size": 4}


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (np.int64(4), 4),
        (np.uint8(4), 4),
        (np.float32(0.5), 0.5),
        ((1, 2), [1, 2]),
        ({1: 2}, {"1": 2}),
        ("é\udc80", "é\udc80"),
    ],
)
def test_what_is_saved_can_be_loaded(tmp_path: Path, value: Any, read: Any) -> None:
    save_checkpoint(tmp_path / "c.json", {**STATE, "value": value})
    assert load_checkpoint(tmp_path / "c.json") == {**STATE, "value": read}


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", {(1, 2): 3}, 1j])
def test_a_state_that_json_cannot_hold_is_refused_and_leaves_the_older_checkpoint_alone(
    tmp_path: Path, value: Any
) -> None:
    path = tmp_path / "c.json"
    save_checkpoint(path, STATE)
    with pytest.raises(
        ConfigurationError, match=r"c\.json cannot be written: the state is not JSON"
    ):
        save_checkpoint(path, {**STATE, "value": value})
    assert load_checkpoint(path) == STATE
    assert [found.name for found in tmp_path.iterdir()] == ["c.json"]


def test_a_checkpoint_that_is_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    link, target = tmp_path / "c.json", tmp_path / "kept" / "c.json"
    link.symlink_to(target)
    for size in (4, 8):
        save_checkpoint(link, {**STATE, "batch_size": size})
        assert link.is_symlink()
        assert json.loads(target.read_text(encoding="utf-8"))["batch_size"] == size
        assert [path.name for path in target.parent.iterdir()] == ["c.json"]


@pytest.mark.parametrize("path", ["", "a\0b", b"c.json", 5, None])
def test_a_path_that_is_none_is_refused(path: Any) -> None:
    for call in (lambda: save_checkpoint(path, STATE), lambda: load_checkpoint(path)):
        with pytest.raises(ConfigurationError, match="must be the path of a file"):
            call()


def test_a_place_where_no_checkpoint_can_be_is_said_and_nothing_is_left_there(
    tmp_path: Path,
) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "none" / "c.json", tmp_path / ("c" * 300)):
        with pytest.raises(ConfigurationError, match="cannot be written|is a folder"):
            save_checkpoint(path, STATE)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert not list((tmp_path / "folder").iterdir())


def test_threads_that_save_to_one_name_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    failed: list[BaseException] = []

    def save(size: int) -> None:
        try:
            for _ in range(30):
                save_checkpoint(path, {**STATE, "batch_size": size, "padding": "x" * 20_000 * size})
                load_checkpoint(path)
        except (ConfigurationError, CorruptData) as error:
            failed.append(error)

    threads = [threading.Thread(target=save, args=(size,)) for size in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert [found.name for found in tmp_path.iterdir()] == ["c.json"]


def test_what_is_no_file_is_neither_waited_for_nor_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/null")):
        for call in (
            lambda path=path: save_checkpoint(path, STATE),
            lambda path=path: load_checkpoint(path),
        ):
            with pytest.raises(ConfigurationError, match="a folder or a device"):
                call()
    assert (tmp_path / "pipe").is_fifo() and Path("/dev/null").is_char_device()
