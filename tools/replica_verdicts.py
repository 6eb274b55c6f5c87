"""Replicas as `watch` saw them -> sentences: who answers, what waits, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from tutelage.tools.replica_view import ReplicaMetricsView, ReplicasView

#: How something is, and a sentence about it.
Verdict = tuple[Literal["good", "warning", "bad", "plain"], str]

# A query that waits this long is a warning: a call of a large model may take many seconds.
_OLD_S = 30.0


def replica_verdicts(
    groups: Sequence[ReplicasView], metrics: Sequence[ReplicaMetricsView]
) -> Iterator[Verdict]:
    """Say in sentences who answers queries, and which wait.

    Args:
        groups: The groups of replicas.
        metrics: What replicas' metrics ports say.
    """
    for group in groups:
        if group.partitions:
            yield from _members(group)
            yield from _waiting(group)
        elif group.replicas is not None:
            # What could not be looked at is said elsewhere.
            yield "warning", f"topic {group.queries} does not exist yet: no query was written"
    discarded = sum(each.discarded for each in metrics)
    if discarded:
        yield (
            "plain",
            f"{discarded:,} answers were computed, but not written: other replicas had their "
            "partitions by then",
        )


def _members(group: ReplicasView) -> Iterator[Verdict]:
    if group.replicas is None:
        return
    count = len(group.replicas)
    if not count:
        nobody = f"no replica answers {group.queries}: group {group.group} has no member"
        if group.waiting:
            yield (
                "bad",
                f"{nobody}. Start one: tutelage teach MODULE:TEACHER --queries {group.queries} "
                f"--topic {group.topic}",
            )
        else:
            yield "plain", nobody
        return
    noun = "replica answers" if count == 1 else "replicas answer"
    yield "good", f"{count:,} {noun} {group.queries} (group {group.group})"
    idle = sum(not member.partitions for member in group.replicas)
    free = [number for number, part in enumerate(group.partitions) if part.owner is None]
    if free:
        yield (
            "warning",
            f"{group.queries}: no replica owns partitions {_listed(free)}; the group is assigning "
            "them, or waits for a replica that has died",
        )
    elif idle:
        verb = "has" if idle == 1 else "have"
        yield (
            "plain",
            f"{idle:,} of them {verb} no partition: {group.queries} has {len(group.partitions)}",
        )


def _waiting(group: ReplicasView) -> Iterator[Verdict]:
    waiting, furthest, oldest_s = group.waiting, group.furthest, group.oldest_s
    if furthest is None:
        yield "good", f"every query of {group.queries} has its answer"
        return
    noun = "query record waits" if waiting == 1 else "query records wait"
    since = "" if oldest_s is None else f", the oldest for {oldest_s:,.0f} s"
    part = group.partitions[furthest]
    owner = next(
        (member.name for member in group.replicas or () if furthest in member.partitions), None
    )
    yield (
        "warning" if oldest_s is not None and oldest_s > _OLD_S else "plain",
        f"{waiting:,} {noun} in {group.queries}{since}; furthest behind is partition {furthest} "
        f"with {part.waiting:,}, {f'of {owner}' if owner else 'which no replica owns'}",
    )


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return shown if len(numbers) <= 8 else f"{shown} and {len(numbers) - 8} more"
