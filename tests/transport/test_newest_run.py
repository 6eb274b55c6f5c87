"""The newest run of a topic, found by its last record or, where that is not enough, by a search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from confluent_kafka import Producer

from tutelage import KafkaSink, Teacher
from tutelage.schemas.limits import DEFAULT_LIMITS
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.newest_run import NewestRun
from tutelage.transport.runs import FoundRun, TopicRuns
from tutelage.transport.topic_admin import KafkaTopic

pytestmark = pytest.mark.kafka
Names = Callable[[str], str]


class Stopped(Exception):
    """Ends a teacher somewhere."""


def write(topic: str, kafka: dict[str, Any], records: int, **options: Any) -> None:
    """Write so many records over the passes, and stop there."""
    passes = options.setdefault("passes", 1)
    with (
        pytest.raises(Stopped),
        Teacher(KafkaSink(topic, partitions=3, **kafka), rows_per_record=4, **options) as teacher,
    ):
        for number in range(records):
            teacher.write({"x": torch.arange(4)})
            # Passes of seven records.
            if number % 7 == 6 and number // 7 < passes - 1:
                teacher.end_pass()
        raise Stopped


def found_in(topic: str, kafka: dict[str, Any]) -> FoundRun | None:
    connection = KafkaConnection(**kafka)
    try:
        return NewestRun(connection, topic, DEFAULT_LIMITS, KafkaTopic(connection, topic)).find()
    finally:
        connection.registry.close()


@pytest.mark.parametrize("records", [1, 6, 7, 10, 14, 16, 20])
def test_the_last_record_is_enough_if_one_run_wrote_all_since_its_beginning(
    kafka: dict[str, Any], topic_name: Names, monkeypatch: pytest.MonkeyPatch, records: int
) -> None:
    topic = topic_name("alone")
    write(topic, kafka, 5, run_id="mon")
    write(topic, kafka, records, run_id="tue", new_run=True, passes=3)

    def search(runs: TopicRuns) -> FoundRun | None:
        raise AssertionError("the topic was searched")

    monkeypatch.setattr(TopicRuns, "newest", search)
    found = found_in(topic, kafka)
    assert found is not None and found.stream.run_id == "tue"


@pytest.mark.parametrize("late", [1, 5])
def test_records_of_an_older_run_behind_the_newest_do_not_hide_it(
    kafka: dict[str, Any], topic_name: Names, late: int
) -> None:
    topic = topic_name("late")
    write(topic, kafka, 7, run_id="mon")
    runs = TopicRuns(KafkaConnection(**kafka), topic)
    (older,) = runs.messages({0: (2, 3)})[0]
    headers: Any = older.headers()
    write(topic, kafka, 1, run_id="tue", new_run=True)
    producer = Producer({"bootstrap.servers": kafka["bootstrap_servers"]})
    for _ in range(late):
        producer.produce(topic, older.value(), partition=0, headers=headers)
    producer.flush(20)
    found = found_in(topic, kafka)
    assert found is not None and found.stream.run_id == "tue"


def test_a_topic_without_records_has_no_newest_run(
    kafka: dict[str, Any], topic_name: Names
) -> None:
    topic = topic_name("empty")
    KafkaTopic(KafkaConnection(**kafka), topic).create(3)
    assert found_in(topic, kafka) is None
