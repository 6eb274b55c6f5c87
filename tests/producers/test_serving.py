"""A teacher's loop says what it waits for when that is news, and not otherwise."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest
import torch

from tutelage import MemorySink, MemoryTopic, Teacher
from tutelage.transport import waiting
from tutelage.transport.waiting import Wait


def test_a_wait_that_is_known_to_take_long_speaks_later_and_then_once_at_a_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 100.0
    monkeypatch.setattr("tutelage.transport.waiting.time.monotonic", lambda: now)

    def spoken(quiet_s: float, *at: float) -> list[bool]:
        nonlocal now
        now = 100.0
        wait = Wait("a batch", timeout_s=1000, log=logging.getLogger("waits"), quiet_s=quiet_s)
        found = []
        for seconds in at:
            caplog.clear()
            now = 100.0 + seconds
            wait.tick()
            found.append(bool(caplog.records))
        return found

    assert spoken(0, 1.9, 2.1, 2.2, 10.1, 10.2, 31) == [False, True, False, True, False, True]
    assert spoken(15, 2.1, 10.1, 14.9, 15.1, 15.2, 29, 31, 32) == [
        False,
        False,
        False,
        True,
        False,
        False,
        True,
        False,
    ]
    assert spoken(500, 499, 501, 502, 562) == [False, True, False, True]


def test_a_teacher_that_is_always_as_slow_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Seconds of a wait become hundredths.
    monkeypatch.setattr(waiting, "_WARN_AFTER_S", (0.02, 0.1, 0.3, 0.6))
    monkeypatch.setattr("tutelage.producers.serving._POLL_S", 0.004)

    def model(index: int) -> dict[str, Any]:
        time.sleep(0.05)
        return {"x": torch.tensor([index])}

    with caplog.at_level(logging.WARNING), Teacher(MemorySink(MemoryTopic())) as teacher:
        teacher.serve(model, range(12))
    lines = [
        record
        for record in caplog.records
        if "waiting for the teacher's inputs or model" in record.getMessage()
    ]
    assert 1 <= len(lines) <= 4
