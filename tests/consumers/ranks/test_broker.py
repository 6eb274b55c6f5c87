"""Ranks read a topic of a real broker: only the partitions they need, from where they need them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from tutelage import FileSource, KafkaSink, KafkaSource, RetentionLoss, Source
from tutelage.tools import record
from tutelage.transport.connection import KafkaConnection

from .conftest import ranks_of, write_rows
from .test_programs import steps_of

ROWS, SIZE = 384, 24


@pytest.fixture(params=[2])
def topic(
    request: pytest.FixtureRequest, kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> str:
    """A topic of 8 partitions with 384 rows a pass, four in a record."""
    name = topic_name("ranks")
    sink = KafkaSink(name, partitions=8, **kafka)
    write_rows(sink, ROWS, name="teacher0", rows_per_record=4, passes=request.param)
    return name


@pytest.mark.kafka
def test_ranks_of_any_number_go_on_where_others_were_killed(
    topic: str, kafka: dict[str, Any], tmp_path: Path
) -> None:
    record(KafkaSource(topic, **kafka), tmp_path / "recorded.avro")
    with ranks_of(
        lambda: [FileSource(tmp_path / "recorded.avro")], 1, global_batch_size=SIZE
    ) as alone:
        expected = steps_of(alone)
        alone[0].begin()
        expected += steps_of(alone)

    def sources() -> list[Source]:
        return [KafkaSource(topic, **kafka)]

    found, state = [], None
    for world, steps in ((1, 3), (4, 5), (2, 1), (8, 12), (3, 6), (2, 5)):
        with ranks_of(sources, world, state=state, global_batch_size=SIZE) as ranks:
            given = steps_of(ranks, steps)
            if len(given) < steps:
                for rank in ranks:
                    rank.begin()
                given += steps_of(ranks, steps - len(given))
            found += given
            state = json.loads(json.dumps(ranks[-1].student.state_dict()))
    assert found == expected


@pytest.mark.kafka
@pytest.mark.parametrize("topic", [1], indirect=True, ids=["one pass"])
@pytest.mark.parametrize("world", [2, 4, 8])
def test_a_rank_reads_the_partitions_it_needs_and_none_of_the_others(
    topic: str, kafka: dict[str, Any], world: int
) -> None:
    with ranks_of(lambda: [KafkaSource(topic, **kafka)], world, global_batch_size=32) as ranks:
        steps_of(ranks)
        for number, rank in enumerate(ranks):
            (stats,) = rank.student.stream_stats
            mine = [each for each in range(8) if each % world == number]
            assert sorted(each for each, count in stats.records.items() if count) == mine
            assert sum(stats.rows.values()) == ROWS // world


@pytest.mark.kafka
def test_a_rank_that_goes_on_begins_to_read_near_its_first_record(
    topic: str, kafka: dict[str, Any]
) -> None:
    def sources() -> list[Source]:
        return [KafkaSource(topic, **kafka)]

    with ranks_of(sources, 2, global_batch_size=32) as ranks:
        steps_of(ranks)
        for rank in ranks:
            rank.begin()
        steps_of(ranks, 10)
        state = ranks[0].student.state_dict()
    assert (state["pass_index"], state["rows"]) == (1, 320)
    with ranks_of(sources, 4, state=state, global_batch_size=32) as ranks:
        assert len(steps_of(ranks)) == 2
        for rank in ranks:
            (stats,) = rank.student.stream_stats
            # 64 rows are left. Nothing of what lies before them is read again.
            assert sum(stats.rows.values()) == 64 // 4


def delete_before(offset: int, topic: str, kafka: dict[str, Any]) -> None:
    """Have the broker delete what lies before an offset, in all partitions."""
    admin = KafkaConnection(**kafka).admin()
    parts = [TopicPartition(topic, partition, offset) for partition in range(8)]
    for future in admin.delete_records(parts).values():
        future.result(30)


@pytest.mark.kafka
@pytest.mark.parametrize("topic", [1], indirect=True, ids=["one pass"])
@pytest.mark.parametrize("deleted", [0, 3, 7])
def test_ranks_go_on_although_the_broker_has_deleted_what_they_need_no_more(
    topic: str, kafka: dict[str, Any], deleted: int
) -> None:
    def sources() -> list[Source]:
        return [KafkaSource(topic, **kafka)]

    with ranks_of(sources, 1, global_batch_size=32) as alone:
        expected = steps_of(alone)
    with ranks_of(sources, 2, global_batch_size=32) as ranks:
        # Of 12 records in each partition, 8 are used.
        steps_of(ranks, 8)
        state = ranks[0].student.state_dict()
    if deleted:
        delete_before(deleted, topic, kafka)
    with ranks_of(sources, 4, state=state, global_batch_size=32) as ranks:
        assert steps_of(ranks) == expected[8:]


@pytest.mark.kafka
@pytest.mark.parametrize("topic", [1], indirect=True, ids=["one pass"])
def test_ranks_refuse_to_go_on_if_the_broker_has_deleted_what_they_need(
    topic: str, kafka: dict[str, Any]
) -> None:
    def sources() -> list[Source]:
        return [KafkaSource(topic, **kafka)]

    with ranks_of(sources, 2, global_batch_size=32) as ranks:
        steps_of(ranks, 2)
        state = ranks[0].student.state_dict()
    delete_before(6, topic, kafka)
    with ranks_of(sources, 2, state=state, global_batch_size=32) as ranks:
        for rank in ranks:
            with pytest.raises(RetentionLoss, match="the first record that is left of the run is"):
                list(rank.batches)
