"""What users do with a student: several passes, leaving a loop early, two iterators at once, and
teachers that are late, incompatible or of different length.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from support.teaching import student_of, teach, xs
from torch.utils.data import DataLoader

from tutelage import FileSink, FileSource, MemorySink, MemorySource, MemoryTopic, Student, Teacher
from tutelage.consumers.chain import Chain
from tutelage.schemas.container_writer import partial_path
from tutelage.schemas.errors import (
    ConfigurationError,
    LengthMismatch,
    MergeError,
    RunMismatch,
    TruncatedData,
    WaitTimeout,
)


def test_drop_last_leaves_the_short_batch_out(topic: MemoryTopic) -> None:
    with student_of(topic) as student:
        assert [len(x) for x in xs(student.knowledge(8))] == [8, 8, 4]
        assert [len(x) for x in xs(student.knowledge(8, drop_last=True))] == [8, 8]


def test_a_pass_left_early_begins_again_and_threads_end(topic: MemoryTopic) -> None:
    before = set(threading.enumerate())
    with student_of(topic) as student:
        for _ in range(3):
            for batch in student.knowledge(5):
                assert batch["x"].tolist() == [0, 1, 2, 3, 4]
                break
        assert not set(threading.enumerate()) - before
        assert xs(student.knowledge(20)) == [list(range(20))]
    assert not set(threading.enumerate()) - before


def test_only_one_iterator_at_a_time(topic: MemoryTopic) -> None:
    with student_of(topic) as student:
        first = student.knowledge(5)
        next(first)
        with pytest.raises(ConfigurationError, match="another iterator"):
            student.knowledge(5)
        first.close()
        assert len(xs(student.knowledge(5))) == 4


def test_passes_follow_each_other_and_begin_again() -> None:
    topic = MemoryTopic()
    with Teacher(MemorySink(topic), passes=2) as teacher:
        starts = iter([0, 100])

        def inputs() -> Any:
            start = next(starts)
            return iter([torch.arange(start, start + 3)])

        teacher.serve(lambda x: {"x": x}, inputs)
    with student_of(topic) as student:
        assert student.passes == 2
        assert [xs(student.knowledge(9))[0] for _ in range(3)] == [
            [0, 1, 2],
            [100, 101, 102],
            [0, 1, 2],
        ]
        assert xs(student.knowledge(9, pass_index=0)) == [[0, 1, 2]]
        with pytest.raises(ConfigurationError, match="writes? 2 passes"):
            student.knowledge(9, pass_index=2)


def test_two_students_read_one_topic(topic: MemoryTopic) -> None:
    with student_of(topic) as one, student_of(topic) as other:
        for batch1, batch2 in zip(one.knowledge(6), other.knowledge(6), strict=True):
            assert torch.equal(batch1["x"], batch2["x"])


def test_a_student_may_start_first_and_says_what_it_waits_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    topic = MemoryTopic(name="late")
    writer = threading.Timer(2.5, teach, [MemorySink(topic)])
    writer.start()
    with student_of(topic) as student:
        assert xs(student.knowledge(20)) == [list(range(20))]
    writer.join()
    assert "waiting for the first record of memory topic 'late'" in caplog.text


def test_a_teacher_that_stops_is_named_with_the_record_that_is_missing(topic: MemoryTopic) -> None:
    for log in topic.logs:
        del log[2:]
    with (
        student_of(topic, timeout_s=1) as student,
        pytest.raises(WaitTimeout, match=r"t, partition 0, record 4"),
    ):
        list(student.knowledge(4))
    with (
        student_of(MemoryTopic(name="never"), timeout_s=0.3) as student,
        pytest.raises(WaitTimeout, match="never"),
    ):
        list(student.knowledge(4))


def test_teachers_of_different_length_are_an_error_or_truncated(topic: MemoryTopic) -> None:
    longer = MemoryTopic(name="longer")
    teach(MemorySink(longer), 23, name="longer")
    merge = {"x": "first", "y": "mean"}
    with (
        student_of(topic, longer, merge=merge) as student,
        pytest.raises(LengthMismatch, match="t has 20 rows, longer has 23 rows"),
    ):
        list(student.knowledge(8))
    with student_of(topic, longer, merge=merge, on_length_mismatch="truncate") as student:
        for _ in range(2):
            assert [x for batch in xs(student.knowledge(8)) for x in batch] == list(range(20))


def test_truncated_passes_are_followed_by_the_right_next_ones() -> None:
    short, longer = (
        MemoryTopic(name="short", partitions=3),
        MemoryTopic(name="longer", partitions=2),
    )
    teach(MemorySink(short), 10, passes=3)
    teach(MemorySink(longer), 40, passes=3)
    with student_of(
        short, longer, merge={"x": "sum", "y": "sum"}, on_length_mismatch="truncate"
    ) as student:
        for _ in range(3):
            assert xs(student.knowledge(4)) == [[0, 2, 4, 6], [8, 10, 12, 14], [16, 18]]


def test_teachers_of_different_passes_or_inputs_are_refused(topic: MemoryTopic) -> None:
    twice = MemoryTopic(name="twice")
    teach(MemorySink(twice), passes=2)
    with (
        student_of(topic, twice) as student,
        pytest.raises(LengthMismatch, match="t writes 1, twice writes 2"),
    ):
        student.knowledge(4)
    one, other = MemoryTopic(name="one"), MemoryTopic(name="other")
    teach(MemorySink(one), inputs_fingerprint="A")
    teach(MemorySink(other), inputs_fingerprint="B")
    merge = {"x": "first", "y": "first"}
    with (
        student_of(one, other, merge=merge) as student,
        pytest.raises(RunMismatch, match="one read 'A', other read 'B'"),
    ):
        student.knowledge(4)
    with student_of(one, other, merge=merge, allow_other_inputs=True) as student:
        assert xs(student.knowledge(20)) == [list(range(20))]


def test_a_common_key_without_a_strategy_is_named_at_the_start(topic: MemoryTopic) -> None:
    with student_of(topic, MemoryTopic(name="again")) as student:
        teach(MemorySink(student._sources[1]._topic))  # type: ignore[attr-defined]
        with pytest.raises(MergeError, match="'x' comes from t .* and again"):
            _ = student.description


def test_calls_in_the_wrong_order_are_refused(topic: MemoryTopic) -> None:
    with pytest.raises(ConfigurationError, match="no teachers"):
        Student().start()
    student = student_of(topic)
    with pytest.raises(ConfigurationError, match="not started"):
        student.knowledge(4)
    with student:
        with pytest.raises(ConfigurationError, match="before start"):
            student.register_teacher(MemorySource(MemoryTopic(name="other")))
        with pytest.raises(ConfigurationError, match="started already"):
            student.start()
        with pytest.raises(ConfigurationError, match="batch_size is 0"):
            student.knowledge(0)
        with pytest.raises(ConfigurationError, match="no teacher 1"):
            student.recv(1)
    again = Student()
    source = MemorySource(topic)
    again.register_teacher(source)
    with pytest.raises(ConfigurationError, match="registered already"):
        again.register_teacher(source)
    for options in ({"on_length_mismatch": "ignore"}, {"prefetch": 0}, {"timeout_s": 0}):
        with pytest.raises(ConfigurationError):
            Student(**options)


def test_the_queue_fills_while_nobody_takes(topic: MemoryTopic) -> None:
    with student_of(topic, prefetch=3) as student:
        assert student.queue_size == 0
        batches = student.knowledge(2)
        next(batches)
        deadline = time.monotonic() + 5
        while student.queue_size < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        # Small batches come in chunks, so all remaining batches may be ready.
        assert 3 <= student.queue_size <= 9


def test_messages_go_both_ways_in_order(
    topic: MemoryTopic, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    other = MemoryTopic(name="other")
    teach(FileSink(tmp_path / "a.avro"))
    student = student_of(topic, other)
    student.register_teacher(FileSource(tmp_path / "a.avro"))
    with student, Teacher(MemorySink(other)) as teacher:
        student.send({"temperature": torch.tensor([2.0])})
        student.send("again", teachers=[1])
        assert "is not sent" in caplog.text
        assert teacher.recv(timeout_s=1)["temperature"].tolist() == [2.0]
        assert teacher.recv(timeout_s=1) == "again"
        teacher.send([1, None, "two"])
        assert student.recv(1, timeout_s=1) == [1, None, "two"]
        with pytest.raises(WaitTimeout, match="control message"):
            student.recv(1, timeout_s=0.1)
        with pytest.raises(ConfigurationError, match="has no control channel"):
            student.recv(2)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.filterwarnings(
    "ignore:.*fork.*:DeprecationWarning", "ignore:This DataLoader will create"
)
def test_a_data_loader_gives_the_same_batches_with_any_workers(
    tmp_path: Path, workers: int, context: str
) -> None:
    teach(FileSink(tmp_path / "a.avro"), 50)
    student = Student()
    student.register_teacher(FileSource(tmp_path / "a.avro"))
    with student:
        if context == "fork":
            # A student that is already reading must not pass its threads to a forked worker.
            assert student.passes == 1
        options: dict[str, Any] = {"multiprocessing_context": context} if workers else {}
        loader = DataLoader(student.dataset(7), batch_size=None, num_workers=workers, **options)
        for _ in range(2 if not workers else 1):
            assert [x for batch in loader for x in batch["x"].tolist()] == list(range(50))


def test_a_missing_unfinished_or_partial_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.avro"

    def read(name: Path) -> list[int]:
        student = Student()
        student.register_teacher(FileSource(name))
        with student:
            return [x for batch in student.knowledge(4) for x in batch["x"].tolist()]

    with pytest.raises(ConfigurationError, match=r"no file .*a\.avro"):
        read(path)
    with Teacher(FileSink(path), rows_per_record=3) as teacher:
        teacher.write({"x": torch.arange(10)})
        with pytest.raises(ConfigurationError, match="has not finished"):
            read(path)
        with pytest.raises(
            TruncatedData,
            match=r"partial ends at byte \d+ after record 2 of pass 0, before the end of the run",
        ):
            read(partial_path(path))
    assert read(path) == list(range(10))


def test_a_repr_reads_like_what_a_person_would_say(topic: MemoryTopic) -> None:
    student = student_of(topic)
    assert repr(student) == "Student(of t; not started)"
    with student:
        list(student.knowledge(20))
        assert repr(student) == "Student(of t; pass 1, 0 batches delivered)"


def test_two_iterators_made_before_either_began_do_not_share_a_place(topic: MemoryTopic) -> None:
    with student_of(topic) as student:
        first, second = student.knowledge(4), student.knowledge(4)
        assert next(first)["x"].tolist() == [0, 1, 2, 3]
        with pytest.raises(ConfigurationError, match="another iterator"):
            next(second)
        assert next(first)["x"].tolist() == [4, 5, 6, 7]
        first.close()


def test_closing_a_student_ends_its_iterator_with_a_clear_error(topic: MemoryTopic) -> None:
    student = student_of(topic)
    student.start()
    batches = student.knowledge(4)
    next(batches)
    student.close()
    with pytest.raises(ConfigurationError, match="closed"):
        list(batches)


def test_what_was_dropped_is_known_after_the_pass_too(topic: MemoryTopic) -> None:
    topic.logs[0].insert(2, topic.logs[0][0])
    with student_of(topic) as student:
        list(student.knowledge(4))
        assert student.dropped == [{"duplicates": 1, "zombies": 0}]


class LopsidedSource(MemorySource):
    """Gives all records of the partitions that are not held, the last partition first.

    A broker may do the same.
    """

    held: frozenset[int] = frozenset()

    def hold(self, partitions: frozenset[int]) -> None:
        self.held = partitions

    def read(self, position: Any) -> Any:
        self.held = frozenset()
        waiting: dict[int, list[Any]] = {}
        for arrival in super().read(position):
            if arrival is None:
                break
            waiting.setdefault(arrival.partition, []).append(arrival)
        while True:
            partition = next(
                (p for p in sorted(waiting, reverse=True) if waiting[p] and p not in self.held),
                None,
            )
            yield None if partition is None else waiting[partition].pop(0)


def test_partitions_that_run_ahead_are_held_within_the_budget_and_never_for_good() -> None:
    topic = MemoryTopic(partitions=3)
    teach(MemorySink(topic), 3000)
    student = Student(timeout_s=5, budget_bytes=2000)
    student.register_teacher(LopsidedSource(topic))
    with student:
        batches = student.knowledge(7)
        assert next(batches)["x"].tolist() == [*range(7)]
        chain = student._chain
        assert isinstance(chain, Chain)
        # A record has about 120 bytes here. The limit is the budget, plus what came before the
        # partitions were held.
        assert chain._orders[0].order.pending_bytes < 3000
        assert [x for batch in batches for x in batch["x"].tolist()] == list(range(7, 3000))


@pytest.mark.parametrize("partitions", [2, 3, 8])
@pytest.mark.parametrize("budget_bytes", [1, 2000])
def test_partitions_that_run_ahead_into_the_next_pass_are_let_go_for_the_end_of_this_one(
    partitions: int, budget_bytes: int
) -> None:
    topic = MemoryTopic(partitions=partitions)
    teach(MemorySink(topic), 200, passes=3)
    student = Student(timeout_s=5, budget_bytes=budget_bytes)
    student.register_teacher(LopsidedSource(topic))
    with student:
        for _ in range(3):
            assert [x for batch in student.knowledge(7) for x in batch["x"].tolist()] == list(
                range(200)
            )
