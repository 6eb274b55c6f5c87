"""The fuzzing itself is tested: a check is taken out of a reader, one at a time, and mutated bytes must show it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import fuzz_targets
from support.fuzz_targets import TARGETS, judge
from support.mutations import mutated

from tutelage.consumers import checkpoint_file
from tutelage.schemas import codec, container_reader, control, headers
from tutelage.schemas.codec import Codec
from tutelage.schemas.varint import decode_long

Change = Callable[[Any], Any]


class _Anything(bytes):
    """Equal to all."""

    __hash__ = bytes.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


def _unchecked(right: Any) -> Any:
    return lambda *_: None


def _cut_to_what_is_there(right: Any) -> Any:
    def bytes_at(view: memoryview, position: int) -> tuple[int, int]:
        length, position = decode_long(view, position)
        return position, min(len(view), position + max(0, length))

    return bytes_at


class _Untranslated:
    """The module json, whose errors are none that anybody expects."""

    def __init__(self, right: Any) -> None:
        self._right = right
        self.dumps = right.dumps

    def loads(self, text: Any) -> Any:
        try:
            return self._right.loads(text)
        except ValueError as error:
            raise AttributeError(str(error)) from error


BUGS: dict[str, tuple[str, Any, str, Change]] = {
    "checksums of messages are not compared": ("message-mixed", Codec, "check_checksum", _unchecked),
    "checksums of blocks are not compared": ("payload-dense", Codec, "check_checksum", _unchecked),
    "checksums of files are not compared": ("file-null", Codec, "check_checksum", _unchecked),
    "checksums of headers are not compared": (
        "file-deflate", container_reader, "header_checksum", lambda _: lambda *_: _Anything(),
    ),
    "lengths are cut to what is there": ("message-dense", codec, "decode_span", _cut_to_what_is_there),
    "errors of headers come through": ("headers", headers, "json", _Untranslated),
    "errors of control messages come through": ("control", control, "json", _Untranslated),
    "errors of checkpoints come through": ("checkpoint", checkpoint_file, "json", _Untranslated),
    "names stand for anything": ("name", fuzz_targets, "key_from_field_name", lambda _: lambda name: name[2:]),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_the_fuzzing_catches_a_planted_bug(
    bug: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name, owner, attribute, change = BUGS[bug]
    target, chooser = TARGETS[name], random.Random(0)
    if bug.startswith("lengths"):
        # What is cut has no right checksum either; without both checks it gets through.
        monkeypatch.setattr(Codec, "check_checksum", _unchecked(None))
    monkeypatch.setattr(owner, attribute, change(getattr(owner, attribute)))
    with pytest.raises((AssertionError, AttributeError, KeyError)):
        for _ in range(3000):
            data = mutated(
                chooser.choice(target.seeds),
                target.seeds,
                chooser.randrange(2**32),
                chooser.randint(1, 3),
            )
            judge(target, data, tmp_path)
