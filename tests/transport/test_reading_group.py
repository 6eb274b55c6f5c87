"""Which group `watch` shows where none was named: the only one there is, and none as long as one that was not seen could be it."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from tutelage.schemas.errors import AccessDenied, TransportError
from tutelage.transport.reading_group import ReadingGroup

READER, OTHER = {("t", 0): 5}, {("u", 0): 5}
HIDDEN = KafkaException(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))
SILENT = KafkaException(KafkaError(KafkaError._TIMED_OUT, "is silent"))
MOVING = KafkaException(KafkaError(KafkaError.NOT_COORDINATOR))


class Cluster:
    """A connection and its clients, with groups and what they have committed."""

    def __init__(
        self, groups: dict[str, dict[tuple[str, int], int] | Exception], silent: bool = False
    ) -> None:
        self.groups, self.silent = groups, silent
        self.open = self.moves = 0

    def admin(self) -> Cluster:
        return self

    def consumer(self, group: str) -> Member:
        self.open += 1
        return Member(self, group)

    def resolved(self, future: Future[Any], doing: str) -> Any:
        return future.result(0)

    def unavailable(self, doing: str, error: Exception) -> TransportError:
        return TransportError(f"{doing}: {error}")

    def list_consumer_groups(self, request_timeout: float) -> Future[Any]:
        errors = [TransportError("broker 2 is away")] if self.silent else []
        future: Future[Any] = Future()
        future.set_result(
            SimpleNamespace(
                valid=[SimpleNamespace(group_id=name) for name in self.groups], errors=errors
            )
        )
        return future


class Member:
    """A client that has the group's name and never joins it."""

    def __init__(self, cluster: Cluster, group: str) -> None:
        self.cluster, self.group = cluster, group

    def committed(self, wanted: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        if self.cluster.moves:
            self.cluster.moves -= 1
            raise MOVING
        said = self.cluster.groups[self.group]
        if isinstance(said, Exception):
            raise said
        return [
            TopicPartition(
                part.topic, part.partition, said.get((part.topic, part.partition), -1001)
            )
            for part in reversed(wanted)
        ]

    def close(self) -> None:
        self.cluster.open -= 1


@pytest.mark.parametrize(
    ("groups", "silent", "name", "others", "too_many", "trouble"),
    [
        ({}, False, None, [], 0, None),
        ({"a": READER, "b": OTHER, "c": {}}, False, "a", [], 0, None),
        ({"a": READER, "b": {**OTHER, **READER}}, False, None, ["a", "b"], 0, None),
        ({"a": READER, "b": HIDDEN}, False, "a", [], 0, None),
        ({"a": READER, "b": SILENT}, False, None, [], 0, "how far group b has read failed"),
        ({"a": READER}, True, None, [], 0, "broker 2 is away"),
        (
            {"a": READER, **{f"g{number}": OTHER for number in range(200)}},
            False,
            None,
            [],
            201,
            None,
        ),
    ],
)
def test_the_only_one_is_shown_and_doubt_is_said(
    groups: dict[str, Any],
    silent: bool,
    name: str | None,
    others: list[str],
    too_many: int,
    trouble: str | None,
) -> None:
    cluster = Cluster(groups, silent)
    found = ReadingGroup(cast("Any", cluster), None)
    found.look_for({"t": 3})
    assert (found.name, found.others, found.too_many) == (name, others, too_many)
    assert (found.trouble is None) if trouble is None else (trouble in str(found.trouble))
    assert cluster.open == 0
    # What was found a moment ago is not asked for again.
    cluster.groups = {}
    found.look_for({"t": 3})
    assert (found.name, found.others) == (name, others)


def test_a_group_that_was_named_is_the_one() -> None:
    cluster = Cluster({"a": READER, "mine": {}})
    named = ReadingGroup(cast("Any", cluster), "mine")
    named.look_for({"t": 2})
    assert named.name == "mine"
    assert named.committed("t", 2) == [None, None]
    assert named.committed("u", 1) == [None]
    assert cluster.open == 1
    named.close()
    named.close()
    assert cluster.open == 0


def test_a_group_whose_coordinator_moves_is_asked_again() -> None:
    cluster = Cluster({"a": READER})
    cluster.moves = 2
    assert ReadingGroup(cast("Any", cluster), "a").committed("t", 2) == [5, None]


@pytest.mark.parametrize(("said", "error"), [(HIDDEN, AccessDenied), (SILENT, TransportError)])
def test_a_group_that_does_not_answer_is_named(
    said: Exception, error: type[TransportError]
) -> None:
    with pytest.raises(error, match="asking how far group a has read failed"):
        ReadingGroup(cast("Any", Cluster({"a": said})), "a").committed("t", 1)
