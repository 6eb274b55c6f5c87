"""Which group `watch` shows where none was named: the only one there is, and none as long as one that was not seen could be it."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import TopicPartition

from tutelage.schemas.errors import AccessDenied, TransportError
from tutelage.transport.reading_group import ReadingGroup

READER, OTHER = [TopicPartition("t", 0, 5)], [TopicPartition("u", 0, 5)]


class Cluster:
    """A connection and its admin client, with groups and what they say of themselves."""

    def __init__(
        self, groups: dict[str, list[TopicPartition] | Exception], silent: bool = False
    ) -> None:
        self.groups, self.silent = groups, silent

    def admin(self) -> Cluster:
        return self

    def resolved(self, future: Future[Any], doing: str) -> Any:
        return future.result(0)

    def unavailable(self, doing: str, error: Exception) -> TransportError:
        return TransportError(f"{doing}: {error}")

    def list_consumer_groups(self, request_timeout: float) -> Future[Any]:
        errors = [TransportError("broker 2 is away")] if self.silent else []
        return of(
            SimpleNamespace(
                valid=[SimpleNamespace(group_id=name) for name in self.groups], errors=errors
            )
        )

    def list_consumer_group_offsets(
        self, wanted: list[Any], request_timeout: float
    ) -> dict[str, Future[Any]]:
        (asked,) = wanted
        said = self.groups[asked.group_id]
        return {
            asked.group_id: of(
                said if isinstance(said, Exception) else SimpleNamespace(topic_partitions=said)
            )
        }


def of(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    if isinstance(value, Exception):
        future.set_exception(value)
    else:
        future.set_result(value)
    return future


@pytest.mark.parametrize(
    ("groups", "silent", "name", "others", "too_many", "trouble"),
    [
        ({}, False, None, [], 0, None),
        ({"a": READER, "b": OTHER, "c": []}, False, "a", [], 0, None),
        ({"a": READER, "b": [*OTHER, *READER]}, False, None, ["a", "b"], 0, None),
        ({"a": READER, "b": AccessDenied("not yours")}, False, "a", [], 0, None),
        ({"a": READER, "b": TransportError("moves")}, False, None, [], 0, "moves"),
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
    found = ReadingGroup(cast("Any", cluster), ["t"], None)
    found.look_for()
    assert (found.name, found.others, found.too_many) == (name, others, too_many)
    assert (found.trouble is None) if trouble is None else (trouble in str(found.trouble))
    # What was found a moment ago is not asked for again.
    cluster.groups = {}
    found.look_for()
    assert (found.name, found.others) == (name, others)


def test_a_group_that_was_named_is_the_one() -> None:
    named = ReadingGroup(cast("Any", Cluster({"a": READER, "mine": []})), ["t"], "mine")
    named.look_for()
    assert named.name == "mine"
    assert named.committed("t", 2) == [None, None]
    assert ReadingGroup(cast("Any", Cluster({"a": READER})), ["t"], "a").committed("t", 2) == [
        5,
        None,
    ]
    with pytest.raises(TransportError, match="moves"):
        ReadingGroup(cast("Any", Cluster({"a": TransportError("moves")})), ["t"], "a").committed(
            "t", 1
        )
