"""Several runs in one topic: the daily capture, its restarts, its readers, and what older runs leave behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from tutelage import KafkaSink, KafkaSource, Student, Teacher
from tutelage.schemas.codec import Codec
from tutelage.schemas.errors import (
    ConfigurationError,
    RetentionLoss,
    RunMismatch,
    SinkExists,
    WaitTimeout,
)
from tutelage.tools.in_order import Counts, in_order
from tutelage.tools.survey import survey_source
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.runs import TopicRuns

pytestmark = pytest.mark.kafka
Names = Callable[[str], str]


class Stopped(Exception):
    """Ends a teacher somewhere."""


def capture(
    topic: str,
    kafka: dict[str, Any],
    first: int,
    rows: int = 40,
    *,
    stop_after: int | None = None,
    passes: int = 1,
    **options: Any,
) -> None:
    """Write the numbers from `first` on."""

    partitions = options.pop("partitions", 3)
    with Teacher(
        KafkaSink(topic, partitions=partitions, **kafka),
        rows_per_record=4,
        passes=passes,
        name="daily",
        **options,
    ) as teacher:
        for start in range(0, rows, 4):
            if start == stop_after:
                raise Stopped
            teacher.write({"x": torch.arange(first + start, first + start + 4)})


def read(topic: str, kafka: dict[str, Any], run: str | None = None, **options: Any) -> list[int]:
    student = Student(**{"timeout_s": 20, **options})
    student.register_teacher(KafkaSource(topic, run=run, **kafka))
    with student:
        return [int(number) for batch in student.knowledge(7) for number in batch["x"]]


def test_a_topic_holds_a_run_a_day_and_a_student_reads_the_newest(
    kafka: dict[str, Any], topic_name: Names
) -> None:
    topic = topic_name("daily")
    for day in range(3):
        capture(topic, kafka, 1000 * day, new_run=True, run_id=f"day-{day}")
        assert read(topic, kafka) == list(range(1000 * day, 1000 * day + 40))
    for day in range(3):
        assert read(topic, kafka, run=f"day-{day}") == list(range(1000 * day, 1000 * day + 40))
    runs = [found.stream.run_id for found in TopicRuns(KafkaConnection(**kafka), topic).all()]
    assert runs == ["day-2", "day-1", "day-0"]
    source = KafkaSource(topic, run="day-1", **kafka)
    survey = survey_source(source, 10)
    counted = Counts()
    records = list(in_order(source, survey.info, timeout_s=10, counted=counted))
    source.close()
    assert [(run.run_id, run.rows, run.whole) for run in survey.runs] == [
        (f"day-{day}", 40, True) for day in (2, 1, 0)
    ]
    assert (survey.rows, survey.flaw, len(records), counted.zombies) == (40, None, 11, 0)


def test_a_finished_run_is_not_followed_unless_asked_and_the_error_names_the_flag(
    kafka: dict[str, Any], topic_name: Names
) -> None:
    topic = topic_name("finished")
    capture(topic, kafka, 0)
    with pytest.raises(SinkExists, match="new_run=True .--new-run."):
        capture(topic, kafka, 0)
    capture(topic, kafka, 500, new_run=True)
    assert read(topic, kafka) == list(range(500, 540))


def test_the_newest_run_is_continued_and_an_older_one_is_not(
    kafka: dict[str, Any], topic_name: Names
) -> None:
    topic = topic_name("restart")
    with pytest.raises(Stopped):
        capture(topic, kafka, 0, new_run=True, run_id="mon", stop_after=20)
    with pytest.raises(Stopped):
        capture(topic, kafka, 1000, new_run=True, run_id="tue", stop_after=20)
    # The same command again goes on with its run; what belongs to the older one is refused, with or without the flag.
    for options in ({"new_run": True}, {}):
        with pytest.raises(SinkExists, match="mon"):
            capture(topic, kafka, 0, run_id="mon", **options)
    capture(topic, kafka, 1000, new_run=True, run_id="tue")
    assert read(topic, kafka) == list(range(1000, 1040))
    with pytest.raises(WaitTimeout, match="its teacher may have stopped"):
        read(topic, kafka, run="mon", timeout_s=2)


def test_runs_may_differ_in_partitions_keys_and_passes(
    kafka: dict[str, Any], topic_name: Names
) -> None:
    topic = topic_name("differ")
    capture(topic, kafka, 0, partitions=2)
    admin = AdminClient({"bootstrap.servers": kafka["bootstrap_servers"]})
    admin.create_partitions([NewPartitions(topic, 5)])[topic].result(20)
    time.sleep(1)
    with Teacher(KafkaSink(topic, **kafka), rows_per_record=3, passes=2, new_run=True) as teacher:
        for _ in range(2):
            teacher.write({"x": torch.arange(100, 120), "y": torch.ones(20, 2)})
            teacher.end_pass()
        assert teacher.sink.partitions == 5
    student = Student(timeout_s=20)
    student.register_teacher(KafkaSource(topic, **kafka))
    with student:
        for _ in range(2):
            batches = list(student.knowledge(6))
            assert [int(x) for batch in batches for x in batch["x"]] == list(range(100, 120))
            assert batches[0]["y"].shape == (6, 2)


def test_a_student_goes_on_with_the_run_of_its_checkpoint_while_a_newer_one_is_there(
    kafka: dict[str, Any], topic_name: Names, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    topic = topic_name("checkpoint")
    capture(topic, kafka, 0, run_id="mon")
    student = Student(timeout_s=20)
    student.register_teacher(KafkaSource(topic, **kafka))
    with student:
        batches = student.knowledge(7)
        seen = [int(x) for _ in range(2) for x in next(batches)["x"]]
        student.save(tmp_path / "state.json")
        capture(topic, kafka, 1000, new_run=True, run_id="tue")
        assert seen + [int(x) for batch in batches for x in batch["x"]] == list(range(40))
    student = Student(timeout_s=20)
    student.register_teacher(KafkaSource(topic, **kafka))
    student.load(tmp_path / "state.json")
    caplog.clear()
    with student:
        assert seen + [int(x) for batch in student.knowledge(7) for x in batch["x"]] == list(
            range(40)
        )
    assert "reading run mon of the checkpoint; the newest run is run tue" in caplog.text
    student = Student(timeout_s=20)
    student.register_teacher(KafkaSource(topic, run="tue", **kafka))
    student.load(tmp_path / "state.json")
    with student, pytest.raises(RunMismatch, match="mon"):
        next(student.knowledge(7))


def test_retention_takes_the_older_run_and_leaves_the_newer(
    kafka: dict[str, Any], topic_name: Names, tmp_path: Any
) -> None:
    topic = topic_name("retention")
    capture(topic, kafka, 0, run_id="mon")
    student = Student(timeout_s=20)
    student.register_teacher(KafkaSource(topic, **kafka))
    with student:
        next(student.knowledge(7))
        student.save(tmp_path / "state.json")
    capture(topic, kafka, 1000, new_run=True, run_id="tue")
    runs = TopicRuns(KafkaConnection(**kafka), topic)
    tuesday = runs.newest()
    assert tuesday is not None
    admin = AdminClient({"bootstrap.servers": kafka["bootstrap_servers"]})

    def delete_before(offsets: list[int]) -> None:
        for future in admin.delete_records(
            [TopicPartition(topic, at, offset) for at, offset in enumerate(offsets)]
        ).values():
            future.result(20)

    starts = runs.starts(tuesday, 3)
    delete_before([max(0, start - 2) for start in starts])
    assert read(topic, kafka) == list(range(1000, 1040))
    with pytest.raises(RetentionLoss):
        read(topic, kafka, run="mon")
    delete_before(starts)
    student = Student(timeout_s=20)
    student.register_teacher(KafkaSource(topic, **kafka))
    student.load(tmp_path / "state.json")
    with (
        student,
        pytest.raises(RetentionLoss, match="run mon of the checkpoint is no longer"),
    ):
        next(student.knowledge(7))
    with pytest.raises(WaitTimeout, match="run mon in topic"):
        read(topic, kafka, run="mon", timeout_s=2)
    assert read(topic, kafka) == list(range(1000, 1040))


def forged(topic: str, kafka: dict[str, Any], run: str) -> list[tuple[int, bytes, list[Any]]]:
    """The records of a run as they lie in a topic: partition, value, headers."""
    connection = KafkaConnection(**kafka)
    runs = TopicRuns(connection, topic)
    found = runs.named(run)
    assert found is not None
    ends = dict.fromkeys(range(found.stream.partitions), (0, 200))
    messages = runs.last_messages(ends, window=200)
    return [
        (partition, message.value() or b"", list(message.headers() or ()))
        for partition, each in messages.items()
        for message in each
    ]


def test_what_a_dying_writer_of_an_older_run_still_sends_is_dropped_and_counted(
    kafka: dict[str, Any], topic_name: Names, caplog: pytest.LogCaptureFixture
) -> None:
    topic = topic_name("dying")
    with pytest.raises(Stopped):
        capture(topic, kafka, 0, run_id="mon", stop_after=24)
    late = forged(topic, kafka, "mon")
    with pytest.raises(Stopped):
        capture(topic, kafka, 1000, new_run=True, run_id="tue", stop_after=24)
    producer = Producer({"bootstrap.servers": kafka["bootstrap_servers"]})

    def send_late() -> None:
        for partition, value, headers in late:
            producer.produce(topic, value=value, partition=partition, headers=headers)
        producer.flush(20)

    send_late()
    # Its teacher goes on, although the tail of every partition is the older run's.
    capture(topic, kafka, 1000, new_run=True, run_id="tue")
    student = Student(timeout_s=20)
    student.register_teacher(KafkaSource(topic, **kafka))
    with student:
        assert [int(x) for batch in student.knowledge(7) for x in batch["x"]] == list(
            range(1000, 1040)
        )
        assert student.dropped[0]["zombies"] == len(late)
    send_late()
    assert read(topic, kafka) == list(range(1000, 1040))


def test_a_teacher_stops_when_a_newer_run_has_begun(
    kafka: dict[str, Any], topic_name: Names
) -> None:
    topic = topic_name("overtaken")
    overtaken: list[int] = []

    def model(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        if int(batch[0]) == 40 and not overtaken:
            overtaken.append(1)
            time.sleep(1)
            capture(topic, kafka, 1000, new_run=True, run_id="tue")
        time.sleep(0.05)
        return {"x": batch}

    with (
        pytest.raises(RunMismatch, match="run tue began behind run mon"),
        Teacher(
            KafkaSink(topic, partitions=3, **kafka), rows_per_record=4, run_id="mon"
        ) as teacher,
    ):
        teacher.serve(model, torch.arange(2000), batch_size=4)
    assert read(topic, kafka) == list(range(1000, 1040))


def test_clocks_of_machines_do_not_matter(
    kafka: dict[str, Any], topic_name: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose teacher's clock is a day behind, and one whose records have the broker's time and a header of the future."""
    topic = topic_name("clock")
    capture(topic, kafka, 0, run_id="mon")
    with monkeypatch.context() as patched:
        now = time.time
        patched.setattr(time, "time", lambda: now() - 86_400)
        capture(topic, kafka, 1000, new_run=True, run_id="tue")
    assert read(topic, kafka) == list(range(1000, 1040))
    assert read(topic, kafka, run="mon") == list(range(40))
    topic = topic_name("broker-time")
    brokers = {**kafka, "topic_settings": {"message.timestamp.type": "LogAppendTime"}}
    capture(topic, brokers, 0, run_id="mon")
    with monkeypatch.context() as patched:
        now = time.time
        patched.setattr(time, "time", lambda: now() + 3600)
        capture(topic, brokers, 1000, new_run=True, run_id="tue")
    assert read(topic, kafka) == list(range(1000, 1040))
    assert read(topic, kafka, run="mon") == list(range(40))


def test_a_file_holds_one_run(tmp_path: Any) -> None:
    from tutelage import FileSink

    for _ in range(2):
        path = tmp_path / "a.avro"
        if not path.exists():
            with Teacher(FileSink(path)) as teacher:
                teacher.write({"x": torch.arange(3)})
            continue
        with (
            pytest.raises(ConfigurationError, match="a file holds one run"),
            Teacher(FileSink(path), new_run=True),
        ):
            pass


def test_the_codec_ties_a_record_to_its_keys_and_dtypes() -> None:
    from tutelage.schemas.errors import CorruptData
    from tutelage.schemas.record import Description, KeySpec, RecordHead

    written = Description((KeySpec(key="logits", dtype="float32", shape=(2,)),))
    head = RecordHead(run_id="r", pass_index=0, sequence=0, rows=1, generation=0)
    body = Codec(written).encode(head, {"logits": [torch.ones(1, 2).numpy()]}).joined()
    for other in ({"key": "logits", "dtype": "int32"}, {"key": "other", "dtype": "float32"}):
        with pytest.raises(CorruptData, match="schema is not the one"):
            Codec(Description((KeySpec(shape=(2,), **other),))).decode(body, "here")
