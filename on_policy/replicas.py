"""Who answers: the members of the groups that share a student's queries, in words."""

from __future__ import annotations

from collections.abc import Iterable

from tutelage.consumers.sources.base import Source
from tutelage.consumers.sources.kafka import KafkaSource
from tutelage.schemas.errors import TransportError
from tutelage.schemas.printable import printable
from tutelage.schemas.queries import replica_group
from tutelage.transport.group_members import group_members
from tutelage.transport.runs import TopicRuns


def who_answers(sources: Iterable[Source], queries: str, run_id: str) -> str:
    """Return who is in the group of each teacher whose answers a student waits for.

    Args:
        sources: The student's sources.
        queries: The topic of the queries, which is one of them.
        run_id: The run of the queries. If a newer one has begun, replicas may have left this one.
    """
    found = []
    for source in sources:
        if not isinstance(source, KafkaSource):
            continue
        if source.label == queries:
            found += _newer(source, queries, run_id)
            continue
        group = replica_group(source.label)
        try:
            members = group_members(source.connection, group, queries)
        except TransportError as error:
            found.append(f"group {group}: {error}")
            continue
        owners = ", ".join(
            f"{client} on {host.lstrip('/')} with partitions {partitions}"
            for client, host, partitions in members
        )
        found.append(
            f"group {group} has {owners}"
            if owners
            else f"group {group} has no replica (one that was given group or run is in another)"
        )
    return "; ".join(found)


def _newer(source: KafkaSource, queries: str, run_id: str) -> list[str]:
    """That a newer run of queries has begun, if one has."""
    try:
        newest = TopicRuns(source.connection, queries).newest()
    except TransportError as error:
        return [f"topic {queries}: {error}"]
    if newest is None or newest.stream.run_id == run_id:
        return []
    return [
        f"a newer run of queries, {printable(newest.stream.run_id)}, has begun in topic {queries}, "
        f"which replicas answer instead of {run_id}"
    ]
