"""What a group has in the end, whatever order the brokers do and answer commits in."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from confluent_kafka import KafkaError, TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from tutelage.consumers.kafka_group import Group
from tutelage.consumers.source import Position
from tutelage.schemas.errors import TransportError

PARTITIONS, PASSES, END = 2, 3, 1000
# Which of the commits on their way is done next, and whether it is refused.
Turn = tuple[int, bool]


class Brokers:
    """A client and brokers that do the commits that are on their way in a given order; what they refuse they refuse for a moment."""

    def __init__(self, turns: list[Turn], silences: int) -> None:
        self.turns, self.silences = turns, silences
        self.underway: list[list[TopicPartition]] = []
        self.have: list[int] = []
        self.prompt = False
        self.closed = False

    def consumer(self, name: str, settings: dict[str, Any]) -> Brokers:
        self.answer: Callable[[KafkaError | None, list[TopicPartition]], None] = settings["on_commit"]
        return self

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> None:
        assert asynchronous and not self.closed
        self.underway.append(offsets)

    def poll(self, timeout_s: float) -> None:
        # Without a wait there is not always an answer.
        if self.underway and (self.turns or self.prompt or timeout_s):
            index, refused = self.turns.pop(0) if self.turns else (0, False)
            parts = self.underway.pop(index % len(self.underway))
            if not refused:
                self.have = [part.offset for part in parts]
            self.answer(KafkaError(KafkaError.COORDINATOR_LOAD_IN_PROGRESS) if refused else None, parts)

    def end_offsets(self, partitions: int, timeout_s: float) -> list[int]:
        if self.silences:
            self.silences -= 1
            raise TransportError("no leaders yet")
        return [END] * partitions

    def close(self) -> None:
        self.closed = True


@given(
    st.lists(st.integers(0, 99), min_size=1, max_size=8),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 7), st.booleans()), max_size=20),
    st.integers(0, 3),
    st.booleans(),
)
def test_the_last_position_is_what_a_group_has_in_the_end(
    offsets: list[int], over: bool, turns: list[Turn], silences: int, starving: bool
) -> None:
    brokers = Brokers(turns, silences)
    group = Group(cast("Any", brokers), "g", "t")
    opened = cast("Any", SimpleNamespace(stream=SimpleNamespace(passes=PASSES), partitions=PARTITIONS))
    places = [Position(pass_index=1, offsets=(offset,) * PARTITIONS) for offset in offsets]
    if over:
        places.append(Position(pass_index=PASSES, offsets=places[-1].offsets))
    for place in places:
        group.commit(cast("Any", brokers), opened, place)
    wanted = [END if over else offsets[-1]] * PARTITIONS
    if starving:
        # A student that waits for its teacher says now and then where it is; the teacher may wait for that.
        brokers.prompt = True
        for _ in range(len(places) + len(turns) + silences + 1):
            group.commit(cast("Any", brokers), opened, places[-1])
        assert brokers.have == wanted
    group.close()
    assert brokers.closed
    assert brokers.have == wanted
