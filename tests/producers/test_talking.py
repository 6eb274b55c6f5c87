"""What a teacher wrote is on its way before it waits for its student's word."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
import torch
from support.teaching import student_of

from tutelage import MemorySink, MemoryTopic, Teacher
from tutelage.schemas.errors import WaitTimeout


@pytest.mark.parametrize("linger_s", [None, 3600.0])
def test_rows_that_were_held_back_to_choose_the_record_size_go_before_a_wait(
    linger_s: float | None,
) -> None:
    topic = MemoryTopic(partitions=2)
    rounds: list[Any] = []

    def student() -> None:
        with student_of(topic, timeout_s=20) as learner:
            for index, batch in enumerate(learner.knowledge(2)):
                rounds.append(batch["x"].tolist())
                learner.send({"round": index})

    sink = MemorySink(topic)
    sink.linger_s = linger_s
    with Teacher(sink) as teacher:
        thread = threading.Thread(target=student)
        for index in range(4):
            teacher.write({"x": torch.tensor([index, index])})
            if index == 0:
                with pytest.raises(WaitTimeout):
                    # Nobody answers yet; what was written is there all the same.
                    teacher.recv(timeout_s=0)
                thread.start()
            assert teacher.recv(timeout_s=20) == {"round": index}
    thread.join(20)
    assert rounds == [[index, index] for index in range(4)]


def test_rows_of_a_record_that_is_not_full_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    topic = MemoryTopic()
    with caplog.at_level(logging.WARNING), Teacher(MemorySink(topic), rows_per_record=4) as teacher:
        for _ in range(2):
            teacher.write({"x": torch.arange(3)})
            teacher.send("what do you say?")
    warnings = [
        record.getMessage() for record in caplog.records if "wait for more" in record.getMessage()
    ]
    assert len(warnings) == 1
    assert "3 rows wait for more, since a record has 4" in warnings[0]
    assert "rows_per_record=1" in warnings[0]


def test_sending_before_anything_is_written_writes_nothing() -> None:
    topic = MemoryTopic()
    with Teacher(MemorySink(topic)) as teacher:
        teacher.send("hello")
        with pytest.raises(WaitTimeout):
            teacher.recv(timeout_s=0)
        assert not any(topic.logs)
        teacher.write({"x": torch.arange(3)})
