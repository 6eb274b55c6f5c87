"""Giving batches to a training loop: what ends the iteration, what is counted, and what other threads see of it."""

from __future__ import annotations

import gc
import json
import sys
import threading
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry
from support.teaching import student_of, teach, xs
from torch.utils.data import DataLoader

from tutelage import FileSink, FileSource, MemorySink, MemoryTopic, Student, Teacher
from tutelage.consumers.metrics import StudentMetrics
from tutelage.schemas.errors import ConfigurationError, CorruptData, WaitTimeout


def cut_short(topic: MemoryTopic) -> list[list[Any]]:
    """Take the later records out of a topic; returns them by partition."""
    taken = [log[2:] for log in topic.logs]
    for log in topic.logs:
        del log[2:]
    return taken


@pytest.mark.parametrize("merged", [False, True])
def test_after_a_wait_that_ran_out_the_next_call_goes_on_waiting(
    topic: MemoryTopic, merged: bool
) -> None:
    topics = [topic]
    if merged:
        topics.append(MemoryTopic(name="other"))
        teach(MemorySink(topics[1]))
    held = cut_short(topic)
    with student_of(
        *topics, timeout_s=0.4, merge={"x": "first", "y": "mean"} if merged else None
    ) as student:
        batches = student.knowledge(4)
        found = [next(batches)["x"].tolist() for _ in range(3)]
        for _ in range(2):
            with pytest.raises(WaitTimeout, match="partition 0, record 4"):
                next(batches)
        assert student.batches_delivered == 3
        for log, records in zip(topic.logs, held, strict=True):
            log.extend(records)
        assert [*found, *xs(batches)] == [[*range(at, at + 4)] for at in range(0, 20, 4)]
        with pytest.raises(StopIteration):
            next(batches)


def test_a_data_set_and_a_data_loader_go_on_waiting_too(topic: MemoryTopic) -> None:
    held = cut_short(topic)
    with student_of(topic, timeout_s=0.4) as student:
        batches = iter(DataLoader(student.dataset(4), batch_size=None))
        found = [next(batches)["x"].tolist() for _ in range(3)]
        with pytest.raises(WaitTimeout):
            next(batches)
        for log, records in zip(topic.logs, held, strict=True):
            log.extend(records)
        assert [*found, *xs(batches)] == [[*range(at, at + 4)] for at in range(0, 20, 4)]


def test_after_a_wait_that_ran_out_another_iteration_may_begin(topic: MemoryTopic) -> None:
    held = cut_short(topic)
    with student_of(topic, timeout_s=0.4) as student:
        batches = student.knowledge(4)
        with pytest.raises(WaitTimeout) as kept:
            list(batches)
        for log, records in zip(topic.logs, held, strict=True):
            log.extend(records)
        # The exception refers to the iterator: that must not keep it under way.
        assert kept.value is not None
        assert len(xs(student.knowledge(4))) == 5
        with pytest.raises(ConfigurationError, match="closed"):
            next(batches)


def test_an_error_is_raised_again_and_never_taken_for_the_end(topic: MemoryTopic) -> None:
    record = topic.logs[0][2]
    topic.logs[0][2] = replace(record, body=record.body[:-3] + bytes(3))
    with student_of(topic) as student:
        batches = student.knowledge(4)
        assert [next(batches)["x"].tolist() for _ in range(3)] == [
            [0, 1, 2, 3],
            [4, 5, 6, 7],
            [8, 9, 10, 11],
        ]
        for _ in range(3):
            with pytest.raises(CorruptData):
                next(batches)


def test_an_iterator_can_be_delegated_to_closed_and_dropped(topic: MemoryTopic) -> None:
    before = set(threading.enumerate())

    def delegated(student: Student) -> Generator[Any, None, None]:
        yield from student.knowledge(4)

    with student_of(topic) as student:
        outer = delegated(student)
        next(outer)
        outer.close()
        assert not set(threading.enumerate()) - before
        batches = student.knowledge(4)
        next(batches)
        batches.close()
        batches.close()
        assert not set(threading.enumerate()) - before
        with pytest.raises(StopIteration):
            next(batches)
        gc.disable()
        try:
            batches = student.knowledge(4)
            next(batches)
            del batches
            assert not set(threading.enumerate()) - before
        finally:
            gc.enable()
    student = student_of(topic)
    student.start()
    batches = student.knowledge(4)
    next(batches)
    del student, batches
    gc.collect()
    assert not set(threading.enumerate()) - before


def test_tally_and_metrics_count_what_was_given_not_what_was_cut(tmp_path: Path) -> None:
    teach(FileSink(tmp_path / "a.avro"), 41)
    student = Student()
    student.register_teacher(FileSource(tmp_path / "a.avro"))
    registry = CollectorRegistry()
    registry.register(StudentMetrics(student))
    with student:
        batches = student.knowledge(4)
        for count in range(1, 7):
            next(batches)
            assert (student.stats.batches, student.stats.rows) == (count, 4 * count)
        batches.close()
        assert (student.stats.batches, student.stats.rows, student.queue_size) == (6, 24, 0)
        list(student.knowledge(4))
        assert (student.stats.batches, student.stats.rows) == (6 + 11, 24 + 41)
        assert registry.get_sample_value("tutelage_consumer_delivered_batches_total") == 17
        assert registry.get_sample_value("tutelage_consumer_delivered_rows_total") == 65
        batches = student.knowledge(4)
        [next(batches) for _ in range(3)]
        state = student.state_dict()
        student.load_state_dict(state)
        batches.close()
        list(student.knowledge(4))
        assert (student.stats.batches, student.stats.rows) == (17 + 11, 65 + 41)


def test_a_state_taken_in_another_thread_is_of_one_moment(tmp_path: Path) -> None:
    with Teacher(FileSink(tmp_path / "a.avro"), rows_per_record=7, passes=3) as teacher:
        for _ in range(3):
            teacher.write({"x": torch.arange(30_000)})
            teacher.end_pass()
    student = Student()
    student.register_teacher(FileSource(tmp_path / "a.avro"))
    wrong: list[Any] = []
    asked = 0
    done = threading.Event()

    def ask() -> None:
        nonlocal asked
        while not done.is_set():
            state = json.loads(json.dumps(student.state_dict()))
            position = state["sources"][0]["position"]
            asked += 1
            at = position["sequence"] * 7 + position["row"]
            alike = state["rows"] == min(30_000, 3 * state["batches"]) and at in (
                state["rows"],
                -(-state["rows"] // 7) * 7,
            )
            if not alike or position["pass_index"] != state["pass_index"]:
                wrong.append(state)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    with student:
        assert student.passes == 3
        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                for batch in student.knowledge(3):
                    del batch
        finally:
            sys.setswitchinterval(before)
            done.set()
            for thread in threads:
                thread.join()
    assert asked > 100
    assert not wrong
