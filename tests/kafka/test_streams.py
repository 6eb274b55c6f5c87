"""Teacher and student against a real broker and registry: modes, passes, restarts, identities, control messages."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.resume import assert_resumes_anywhere, rows_of

from tutelage import FileSink, FileSource, KafkaSink, KafkaSource, Sink, Source, Student, Teacher
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.errors import (
    CorruptData,
    DataError,
    DescriptionChanged,
    RecordTooLarge,
    RetentionLoss,
    RunMismatch,
    SinkExists,
    TopicIdentityError,
    WaitTimeout,
)
from tutelage.tools.copy import copy_stream
from tutelage.tools.in_order import Counts
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.topic_admin import KafkaTopic

pytestmark = pytest.mark.kafka
Names = Callable[[str], str]


class Stopped(Exception):
    """Ends a teacher somewhere."""


def teach(
    sink: Sink, rows: int = 100, *, passes: int = 1, stop_after: int | None = None, **options: Any
) -> None:
    def model(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        if stop_after is not None and int(batch[0]) >= stop_after:
            raise Stopped
        return {"x": batch, "result": 2 * batch}

    with Teacher(sink, passes=passes, **{"rows_per_record": 7, **options}) as teacher:
        teacher.serve(model, torch.arange(rows), batch_size=8)


def student_of(*sources: Any, **options: Any) -> Student:
    student = Student(**{"timeout_s": 20, **options})
    for source in sources:
        student.register_teacher(source)
    return student


def xs(student: Student, batch_size: int = 16) -> list[int]:
    with student:
        return [x for batch in student.knowledge(batch_size) for x in batch["x"].tolist()]


@given(
    partitions=st.sampled_from([1, 3, 4, 8]),
    rows=st.sampled_from([1, 31, 32, 33, 1000]),
    batch_size=st.sampled_from([1, 5, 32, 64]),
    size=st.none() | st.integers(1, 2000),
)
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_topic_gives_what_a_file_gives(
    kafka: dict[str, Any], topic_name: Names, tmp_path_factory: pytest.TempPathFactory,
    partitions: int, rows: int, batch_size: int, size: int | None,
) -> None:  # fmt: skip
    topic, path = topic_name("modes"), tmp_path_factory.mktemp("modes") / "a.avro"
    teach(KafkaSink(topic, partitions=partitions, **kafka), rows, rows_per_record=size)
    teach(FileSink(path), rows)
    found = []
    for sources in (
        (KafkaSource(topic, **kafka),),
        (FileSource(path),),
        (FileSource(path), KafkaSource(topic, **kafka)),
    ):
        student = student_of(
            *sources, merge={"x": "first", "result": "max"} if len(sources) > 1 else {}
        )
        with student:
            found.append(rows_of(student.knowledge(batch_size)))
    assert found[0] == found[1] == found[2]
    assert [x for batch in found[0] for x in batch["x"]] == list(range(rows))


def test_the_student_may_be_there_before_the_topic(
    kafka: dict[str, Any], topic_name: Names, caplog: pytest.LogCaptureFixture
) -> None:
    topic = topic_name("late")
    found: list[int] = []
    reader = threading.Thread(
        target=lambda: found.extend(xs(student_of(KafkaSource(topic, **kafka))))
    )
    reader.start()
    time.sleep(2.5)
    teach(KafkaSink(topic, **kafka))
    reader.join(30)
    assert found == list(range(100))
    assert f"waiting for topic {topic}" in caplog.text


def test_a_teacher_that_stopped_goes_on_without_repeating_or_missing(
    kafka: dict[str, Any], topic_name: Names
) -> None:
    topic = topic_name("restart")
    for stop in (16, 40, 41, 90):
        with pytest.raises(Stopped):
            teach(KafkaSink(topic, partitions=3, **kafka), stop_after=stop)
    teach(KafkaSink(topic, **kafka))
    student = student_of(KafkaSource(topic, **kafka))
    with student:
        assert [x for batch in student.knowledge(9) for x in batch["x"].tolist()] == list(
            range(100)
        )
    consumer = Consumer({"bootstrap.servers": kafka["bootstrap_servers"], "group.id": "count"})
    ends = [
        consumer.get_watermark_offsets(TopicPartition(topic, partition))[1]
        for partition in range(3)
    ]
    consumer.close()
    assert sum(ends) == 15 + 3
    with pytest.raises(SinkExists, match="holds a finished run"):
        teach(KafkaSink(topic, **kafka))


def test_a_zombie_writes_in_vain(kafka: dict[str, Any], topic_name: Names) -> None:
    topic = topic_name("zombie")
    with pytest.raises(Stopped):
        teach(KafkaSink(topic, partitions=2, **kafka), stop_after=30)
    zombie = KafkaSink(topic, **kafka)
    stale = Teacher(zombie, rows_per_record=7)
    stale.start()
    teach(KafkaSink(topic, **kafka))
    # It saw the tail before the other finished, and writes all of it again.
    stale.serve(lambda batch: {"x": batch, "result": 2 * batch}, torch.arange(100), batch_size=8)
    stale.close()
    with student_of(KafkaSource(topic, **kafka)) as student:
        assert [x for batch in student.knowledge(16) for x in batch["x"].tolist()] == list(
            range(100)
        )


def test_a_student_resumes_at_any_batch_online_and_hybrid(
    kafka: dict[str, Any], topic_name: Names, tmp_path: Path
) -> None:
    topic = topic_name("resume")
    teach(KafkaSink(topic, partitions=3, **kafka), 30, passes=2)
    teach(FileSink(tmp_path / "a.avro"), 30, passes=2)

    def make() -> Student:
        merge = {"x": "first", "result": "mean"}
        return student_of(KafkaSource(topic, **kafka), FileSource(tmp_path / "a.avro"), merge=merge)

    batches = assert_resumes_anywhere(make, 8, passes=2)
    assert [x for batch in batches for x in batch["x"]] == [*range(30)] * 2


def test_record_and_replay_give_identical_records(
    kafka: dict[str, Any], topic_name: Names, tmp_path: Path
) -> None:
    topic, again = topic_name("record"), topic_name("replay")
    paths = [tmp_path / "one.avro", tmp_path / "two.avro"]
    teach(KafkaSink(topic, partitions=3, **kafka), passes=2)
    copied(KafkaSource(topic, **kafka), FileSink(paths[0]))
    counts = copied(FileSource(paths[0]), KafkaSink(again, partitions=3, **kafka))
    assert (counts.passes, counts.rows) == (2, 200)
    copied(KafkaSource(again, **kafka), FileSink(paths[1]))
    found = []
    for path in paths:
        with ContainerReader(path) as reader:
            found.append(
                (
                    reader.stream,
                    [record.raw.tobytes() for block in reader.blocks() for record in block.records],
                )
            )
    assert found[0] == found[1]
    assert (
        xs(student_of(KafkaSource(again, **kafka)))
        == xs(student_of(FileSource(paths[0])))
        == list(range(100))
    )
    with pytest.raises(SinkExists, match="all of this run"):
        copied(FileSource(paths[0]), KafkaSink(again, **kafka))


def copied(source: Source, sink: Sink, timeout_s: float = 20) -> Counts:
    """A copy with both ends closed, whatever comes of it."""
    with contextlib.closing(source), contextlib.closing(sink):
        return copy_stream(source, sink, timeout_s=timeout_s)


def test_an_interrupted_recording_goes_on(
    kafka: dict[str, Any], topic_name: Names, tmp_path: Path
) -> None:
    topic = topic_name("interrupted")
    with pytest.raises(Stopped):
        teach(KafkaSink(topic, partitions=3, **kafka), stop_after=50)
    path = tmp_path / "a.avro"
    with pytest.raises(WaitTimeout, match=r"record \d of pass 0"):
        copied(KafkaSource(topic, **kafka), FileSink(path), timeout_s=1)
    teach(KafkaSink(topic, **kafka))
    copied(KafkaSource(topic, **kafka), FileSink(path))
    assert xs(student_of(FileSource(path))) == list(range(100))


def test_messages_go_both_ways_over_topics(kafka: dict[str, Any], topic_name: Names) -> None:
    topic = topic_name("control")
    with (
        Teacher(KafkaSink(topic, **kafka)) as teacher,
        student_of(KafkaSource(topic, **kafka)) as student,
    ):
        teacher.send({"hello": torch.tensor([1.5, 2.5])})
        teacher.send("again")
        assert student.recv(0)["hello"].tolist() == [1.5, 2.5]
        assert student.recv(0) == "again"
        student.send([None, {"lr": 0.1}])
        assert teacher.recv(timeout_s=20) == [None, {"lr": 0.1}]
        with pytest.raises(WaitTimeout, match="control message from the student"):
            teacher.recv(timeout_s=1)


def test_a_key_may_be_added_between_runs_but_not_change(
    kafka: dict[str, Any], topic_name: Names
) -> None:
    topic = topic_name("evolve")
    teach(KafkaSink(topic, **kafka))
    admin = AdminClient({"bootstrap.servers": kafka["bootstrap_servers"]})

    def recreated() -> None:
        admin.delete_topics([topic])[topic].result(20)
        asked = KafkaTopic(KafkaConnection(kafka["bootstrap_servers"]), topic)
        deadline = time.monotonic() + 20
        while asked.partitions() and time.monotonic() < deadline:
            time.sleep(0.1)

    recreated()
    with Teacher(KafkaSink(topic, **kafka)) as teacher:
        teacher.write({"x": torch.arange(3), "new": torch.ones(3, 2)})
    recreated()
    with (
        pytest.raises(
            DescriptionChanged, match=r"version 1: key 'x' was int64\[\] and would become float32"
        ),
        Teacher(KafkaSink(topic, **kafka)) as teacher,
    ):
        teacher.write({"x": torch.ones(3)})


def test_a_record_over_the_topics_limit_is_refused_with_the_figure_that_fits(
    kafka: dict[str, Any], topic_name: Names
) -> None:
    topic = topic_name("large")
    settings = {"max.message.bytes": "200000"}
    wide = {"x": torch.zeros(50, 1000)}
    with (
        pytest.raises(
            RecordTooLarge,
            match=rf"topic {topic}.*50 rows.*200\d{{3}} bytes.*134464.*rows_per_record=33 would fit",
        ),
        Teacher(KafkaSink(topic, topic_settings=settings, **kafka), rows_per_record=50) as teacher,
    ):
        teacher.write(wide)
    # Left to itself, the teacher chooses what fits.
    with Teacher(KafkaSink(topic, **kafka)) as teacher:
        teacher.write(wide)
    with student_of(KafkaSource(topic, **kafka)) as student:
        assert sum(len(batch["x"]) for batch in student.knowledge(16)) == 50


def test_a_topic_that_holds_another_run_is_left_alone(
    kafka: dict[str, Any], topic_name: Names
) -> None:
    topic = topic_name("other")
    with pytest.raises(Stopped):
        teach(KafkaSink(topic, **kafka), stop_after=50, name="one")
    with pytest.raises(SinkExists, match="holds another run.*teacher 'one' there, 'two' here"):
        teach(KafkaSink(topic, **kafka), name="two")


def produce(kafka: dict[str, Any], topic: str, partition: int, value: bytes, headers: Any) -> None:
    producer = Producer({"bootstrap.servers": kafka["bootstrap_servers"]})
    producer.produce(topic, value=value, partition=partition, headers=headers)
    producer.flush(20)
    producer.close()


def messages(kafka: dict[str, Any], topic: str, partition: int) -> list[Any]:
    consumer = Consumer(
        {
            "bootstrap.servers": kafka["bootstrap_servers"],
            "group.id": "look",
            "auto.offset.reset": "earliest",
        }
    )
    consumer.assign([TopicPartition(topic, partition, 0)])
    high = consumer.get_watermark_offsets(TopicPartition(topic, partition))[1]
    found: list[Any] = []
    while len(found) < high:
        found += [message for message in consumer.consume(10, 1) if message.error() is None]
    consumer.close()
    return found


@pytest.mark.parametrize("damage", ["magic", "bit", "cut", "run", "nothing"])
def test_what_no_teacher_wrote_is_named_by_topic_partition_and_offset(
    kafka: dict[str, Any], topic_name: Names, damage: str
) -> None:
    topic, other = topic_name("damage"), topic_name("damage-other")
    with pytest.raises(Stopped):
        teach(KafkaSink(topic, partitions=1, **kafka), stop_after=50)
    last = messages(kafka, topic, 0)[-1]
    value, headers = bytearray(last.value()), last.headers()
    if damage == "magic":
        value[0] = 7
    elif damage == "bit":
        value[-1] ^= 1
    elif damage == "cut":
        del value[-3:]
    elif damage == "run":
        teach(KafkaSink(other, partitions=1, **kafka))
        message = messages(kafka, other, 0)[-2]
        value, headers = message.value(), message.headers()
    else:
        headers = None
    produce(kafka, topic, 0, bytes(value), headers)
    offset = last.offset() + 1
    with pytest.raises(DataError, match=rf"topic {topic}, partition 0, offset {offset}: "):
        xs(student_of(KafkaSource(topic, **kafka), timeout_s=5))
    assert issubclass(CorruptData, DataError)
    assert issubclass(RunMismatch, DataError)


def test_records_lost_to_retention_are_an_error_not_a_jump(
    kafka: dict[str, Any], topic_name: Names
) -> None:
    topic = topic_name("retention")
    teach(KafkaSink(topic, partitions=1, **kafka))
    with student_of(KafkaSource(topic, **kafka)) as student:
        batches = student.knowledge(16)
        next(batches)
        state = student.state_dict()
        batches.close()
    admin = AdminClient({"bootstrap.servers": kafka["bootstrap_servers"]})
    for future in admin.delete_records([TopicPartition(topic, 0, 5)]).values():
        future.result(20)
    with (
        student_of(KafkaSource(topic, **kafka)) as student,
        pytest.raises(RetentionLoss, match="the first record that is left of the run is record 5"),
    ):
        list(student.knowledge(16))
    with student_of(KafkaSource(topic, **kafka)) as student:
        student.load_state_dict(state)
        with pytest.raises(RetentionLoss, match="deleted offsets 2 to 4"):
            list(student.knowledge(16))


def test_a_recreated_topic_is_not_the_one_of_the_checkpoint(
    kafka: dict[str, Any], topic_name: Names
) -> None:
    topic = topic_name("recreated")
    teach(KafkaSink(topic, partitions=1, **kafka), run_id="same")
    with student_of(KafkaSource(topic, **kafka)) as student:
        batches = student.knowledge(16)
        next(batches)
        state = student.state_dict()
        batches.close()
    admin = AdminClient({"bootstrap.servers": kafka["bootstrap_servers"]})
    admin.delete_topics([topic])[topic].result(20)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(20)
            break
        except Exception:
            time.sleep(0.2)
    teach(KafkaSink(topic, partitions=1, **kafka), run_id="same")
    with student_of(KafkaSource(topic, **kafka)) as student:
        student.load_state_dict(state)
        with pytest.raises(TopicIdentityError, match="it was recreated"):
            list(student.knowledge(16))


def test_progress_is_committed_for_lag_tools(kafka: dict[str, Any], topic_name: Names) -> None:
    topic, group = topic_name("lag"), topic_name("group")
    teach(KafkaSink(topic, partitions=2, **kafka))
    with student_of(KafkaSource(topic, group=group, **kafka)) as student:
        list(student.knowledge(10))
    consumer = Consumer({"bootstrap.servers": kafka["bootstrap_servers"], "group.id": group})
    committed = consumer.committed([TopicPartition(topic, 0), TopicPartition(topic, 1)], timeout=20)
    consumer.close()
    # Records and ends: nothing is left to read.
    assert [partition.offset for partition in committed] == [9, 8]


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_data_loader_worker_reads_a_topic(
    kafka: dict[str, Any], topic_name: Names, context: str
) -> None:
    from torch.utils.data import DataLoader

    topic = topic_name("worker")
    teach(KafkaSink(topic, partitions=2, **kafka))
    with student_of(KafkaSource(topic, **kafka)) as student:
        loader = DataLoader(
            student.dataset(9), batch_size=None, num_workers=1, multiprocessing_context=context
        )
        assert [x for batch in loader for x in batch["x"].tolist()] == list(range(100))


def test_a_teacher_stays_near_its_student_when_told_to(
    kafka: dict[str, Any], topic_name: Names
) -> None:
    topic, group = topic_name("pace"), topic_name("pace-group")
    paced = {"max_ahead": 5, "student_group": group, **kafka}
    writer = threading.Thread(target=lambda: teach(KafkaSink(topic, partitions=2, **paced), 300))
    writer.start()
    with student_of(
        KafkaSource(topic, group=group, **kafka), prefetch=1, budget_bytes=1
    ) as student:
        batches = student.knowledge(7)
        for _ in range(3):
            next(batches)
        time.sleep(1.5)
        held = sum(len(messages(kafka, topic, partition)) for partition in (0, 1))
        assert held <= 3 + 5
        assert writer.is_alive()
        assert sum(len(batch["x"]) for batch in batches) == 300 - 3 * 7
    writer.join(20)
    assert not writer.is_alive()
    with pytest.raises(WaitTimeout, match="to read on"):
        teach(
            KafkaSink(
                topic_name("alone"),
                student_timeout_s=1,
                **{**paced, "student_group": topic_name("nobody")},
            ),
            300,
        )
