"""A source's records come in order, whatever it gives; a source that stops is an error, not a wait."""

from __future__ import annotations

import itertools
from collections.abc import Generator

import numpy as np
import pytest

from tutelage import MemorySink, MemorySource, MemoryTopic, Teacher
from tutelage.consumers.position import Position
from tutelage.consumers.sources.base import ConsumedRecord
from tutelage.consumers.stages.order import PassEnd
from tutelage.consumers.stages.order_stage import OrderStage
from tutelage.schemas.errors import TruncatedData, WaitTimeout

ROWS = 40


@pytest.fixture
def topic() -> MemoryTopic:
    topic = MemoryTopic(partitions=3)
    with Teacher(MemorySink(topic), rows_per_record=4) as teacher:
        teacher.write({"x": np.arange(ROWS)})
    return topic


def stage_of(source: MemorySource, timeout_s: float | None = None) -> OrderStage:
    return OrderStage(source, source.open(0.0), Position(), timeout_s=timeout_s)


def test_every_record_comes_in_order_and_then_the_end_of_the_pass(topic: MemoryTopic) -> None:
    stage = stage_of(MemorySource(topic))
    found = [item for _ in range(100) if (item := stage.poll()) is not None]
    assert isinstance(found[-1], PassEnd)
    assert [item.record.head.sequence for item in found] == [*range(10), 10]
    stage.close()


class Stopping(MemorySource):
    """A source of a user's own whose `read` ends too early."""

    def read(self, position: Position) -> Generator[ConsumedRecord | None, None, None]:
        yield from itertools.islice(super().read(position), 5)


def test_a_source_that_stops_before_the_end_of_the_pass_is_an_error(topic: MemoryTopic) -> None:
    stage = stage_of(Stopping(topic))
    with pytest.raises(TruncatedData, match=r"stopped giving records before record 5 of pass 0"):
        for _ in range(100):
            stage.poll()


class Repeating(MemorySource):
    """A source that gives the first record without end: a writer that writes it again and again."""

    def read(self, position: Position) -> Generator[ConsumedRecord | None, None, None]:
        first = next(super().read(position))
        while True:
            yield first


def test_a_poll_ends_after_a_moment_although_duplicates_keep_coming(topic: MemoryTopic) -> None:
    stage = stage_of(Repeating(topic))
    assert stage.poll() is not None
    assert stage.poll() is None
    assert stage.order.duplicates > 0


def test_with_a_timeout_duplicates_do_not_prolong_the_wait(topic: MemoryTopic) -> None:
    stage = stage_of(Repeating(topic), timeout_s=1.5)
    assert stage.poll() is not None
    with pytest.raises(WaitTimeout, match="partition 1, record 1 of pass 0"):
        stage.poll()
