"""What a group has in the end, whatever order the brokers do and answer commits in."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Literal, cast

from confluent_kafka import KafkaError, TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from tutelage.schemas.errors import TransportError
from tutelage.schemas.topic import BEGINNING
from tutelage.transport.offset_commits import OffsetCommits

PARTITIONS, END = 2, 1000
# Which of the commits on their way is done next, and how much of it: all, nothing, or only what is of the first partition.
Turn = tuple[int, Literal["done", "refused", "partly"]]


class Brokers:
    """A client and brokers that do the commits that are on their way in a given order; what they refuse they refuse for a moment."""

    def __init__(self, turns: list[Turn], silences: int) -> None:
        self.turns, self.silences = turns, silences
        self.underway: list[list[TopicPartition]] = []
        self.have: dict[int, int] = {}
        self.looks = 0
        self.prompt = False
        self.closed = False

    def consumer(self, name: str, settings: dict[str, Any]) -> Brokers:
        self.closed = False
        self.answer: Callable[[KafkaError | None, list[TopicPartition]], None] = settings[
            "on_commit"
        ]
        return self

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> None:
        assert asynchronous and not self.closed
        self.underway.append(offsets)

    def poll(self, timeout_s: float) -> None:
        self.looks += 1
        # Without a wait there is not always an answer.
        if self.underway and (self.turns or self.prompt or timeout_s):
            index, outcome = self.turns.pop(0) if self.turns else (0, "done")
            parts = self.underway.pop(index % len(self.underway))
            error = KafkaError(KafkaError.COORDINATOR_LOAD_IN_PROGRESS)
            if outcome == "refused":
                self.answer(error, parts)
                return
            done = [part for part in parts if outcome == "done" or not part.partition]
            self.have |= {part.partition: part.offset for part in done}
            # As the client says it: no error of the whole unless all failed.
            said = [
                SimpleNamespace(
                    partition=part.partition,
                    offset=part.offset,
                    error=None if part in done else error,
                )
                for part in parts
            ]
            self.answer(None, cast("Any", said))

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
    st.lists(
        st.tuples(st.integers(0, 7), st.sampled_from(["done", "refused", "partly"])), max_size=20
    ),
    st.integers(0, 3),
    st.booleans(),
)
def test_the_last_position_is_what_a_group_has_in_the_end(
    offsets: list[int], over: bool, turns: list[Turn], silences: int, starving: bool
) -> None:
    brokers = Brokers(turns, silences)
    group = OffsetCommits(cast("Any", brokers), "g", "t")
    places = [((offset,) * PARTITIONS, False) for offset in offsets]
    if over:
        places.append((places[-1][0], True))
    for at, at_end in places:
        group.commit(cast("Any", brokers), at, at_end=at_end)
    wanted = dict.fromkeys(range(PARTITIONS), END if over else offsets[-1])
    if starving:
        # A student that waits for its teacher says now and then where it is; the teacher may wait for that.
        brokers.prompt = True
        for _ in range(len(places) + len(turns) + silences + 1):
            group.commit(cast("Any", brokers), places[-1][0], at_end=places[-1][1])
        assert brokers.have == wanted
    group.close()
    assert brokers.closed
    assert brokers.have == wanted


def test_a_closed_group_remembers_nothing() -> None:
    brokers = Brokers([], 0)
    group = OffsetCommits(cast("Any", brokers), "g", "t")
    for _ in range(2):
        # Somebody resets the group while nobody looks.
        brokers.have = {}
        group.commit(cast("Any", brokers), (7,) * PARTITIONS, at_end=False)
        group.close()
        assert brokers.have == dict.fromkeys(range(PARTITIONS), 7)
    assert group._latest is None


def test_a_pass_begun_again_behind_a_refusal_is_not_waited_for() -> None:
    brokers = Brokers([(0, "refused")], 0)
    group = OffsetCommits(cast("Any", brokers), "g", "t")
    group.commit(cast("Any", brokers), (7,) * PARTITIONS, at_end=False)
    group.commit(cast("Any", brokers), (BEGINNING,) * PARTITIONS, at_end=False)
    looks = brokers.looks
    group.close()
    assert brokers.closed and brokers.looks == looks
