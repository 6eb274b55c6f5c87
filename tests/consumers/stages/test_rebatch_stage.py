"""Chunks are given when somebody waits for them, and collected while nobody does."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import pytest

from tutelage import MemorySink, MemorySource, MemoryTopic, Teacher
from tutelage.consumers.position import Position
from tutelage.consumers.sources.base import ConsumedRecord
from tutelage.consumers.stages.chunk import Chunk
from tutelage.consumers.stages.order_stage import OrderStage
from tutelage.consumers.stages.rebatch import Rebatch
from tutelage.consumers.stages.rebatch_stage import RebatchStage
from tutelage.consumers.stats import StreamStats

ROWS = 4


class Counting(MemorySource):
    """Counts the records that were read."""

    count = 0

    def read(self, position: Position) -> Generator[ConsumedRecord | None, None, None]:
        for item in super().read(position):
            self.count += 1
            yield item


@pytest.fixture
def source() -> Counting:
    topic = MemoryTopic()
    with Teacher(MemorySink(topic), rows_per_record=ROWS) as teacher:
        teacher.write({"x": np.arange(8 * ROWS)})
    return Counting(topic)


def stage_of(source: Counting, batch_size: int) -> RebatchStage:
    opened = source.open(0.0)
    records = OrderStage(source, opened, Position())
    rebatch = Rebatch(
        batch_size,
        description=opened.description,
        partitions=opened.partitions,
        position=Position(),
    )
    return RebatchStage(records, rebatch, StreamStats())


def rows_in(item: object) -> int:
    assert isinstance(item, Chunk)
    return item.rows


def test_a_batch_that_came_while_nobody_waited_is_given_before_the_next_record_is_read(
    source: Counting,
) -> None:
    stage = stage_of(source, ROWS)
    assert stage.poll(eager=False) is None
    read = source.count
    assert rows_in(stage.poll(eager=True)) == ROWS
    assert source.count == read, "the stage waited for a record although a batch was whole"
    stage.close()


def test_batches_are_collected_while_nobody_waits(source: Counting) -> None:
    stage = stage_of(source, ROWS)
    for _ in range(3):
        assert stage.poll(eager=False) is None
    assert rows_in(stage.poll(eager=True)) == 3 * ROWS
    stage.close()


def test_somebody_who_waits_gets_a_batch_as_soon_as_it_is_whole(source: Counting) -> None:
    stage = stage_of(source, 2 * ROWS)
    assert stage.poll(eager=True) is None
    assert rows_in(stage.poll(eager=True)) == 2 * ROWS
    stage.close()
