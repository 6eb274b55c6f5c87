"""A topic of queries and the group that answers them -> what `watch` shows of both.

Draws nothing, and leaves the sentences to `replica_verdicts.py`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tutelage.schemas.errors import TutelageError
from tutelage.schemas.queries import queries_topic, replica_group
from tutelage.tools.rate_window import RateWindow
from tutelage.tools.replica_view import QueriesView, ReplicasView, ReplicaView

if TYPE_CHECKING:
    from tutelage.transport.connection import KafkaConnection

# Where the newest run of queries begins is looked for this often, while the group has committed
# nothing for a partition.
_STARTS_S = 10.0


class ReplicaGroup:
    """Looks at the queries of one teacher, and at the replicas that share them. Close it.

    Args:
        connection: The cluster.
        topic: The topic of answers.
        queries: The topic of queries; None for `TOPIC.queries`, if it is there.
        group: The group of the replicas; None for `tutelage-TOPIC`.
    """

    def __init__(
        self, connection: KafkaConnection, topic: str, *, queries: str | None, group: str | None
    ) -> None:
        from tutelage.transport.reading_group import ReadingGroup
        from tutelage.transport.runs import TopicRuns
        from tutelage.transport.topic_admin import KafkaTopic

        self._connection = connection
        self._topic = topic
        self._named = queries is not None
        self._queries = queries_topic(topic) if queries is None else queries
        self._group = replica_group(topic) if group is None else group
        self._admin = KafkaTopic(connection, self._queries)
        self._runs = TopicRuns(connection, self._queries, admin=self._admin)
        self._committed = ReadingGroup(connection, self._group)
        self._window: RateWindow[list[int]] | None = None
        # Partition -> an offset, and when the message there was written, in seconds since the epoch.
        self._written: dict[int, tuple[int, float]] = {}
        self._starts: dict[int, int] = {}
        self._starts_due_s = 0.0

    def look(self, trouble: list[str]) -> ReplicasView | None:
        """Look once.

        Args:
            trouble: Gets a sentence for each part that could not be looked at.

        Returns:
            What was seen; None if no topic of queries was named and there is none.
        """
        view = ReplicasView(topic=self._topic, queries=self._queries, group=self._group)
        try:
            count = self._admin.partitions()
            if not count:
                if not self._named:
                    return None
                self._admin.check_visible()
                view.replicas = []
                return view
            view.replicas = self._replicas()
            view.partitions = self._partitions(count, view.replicas)
        except TutelageError as error:
            trouble.append(f"the replicas that answer {self._queries}: {error}")
        for member in view.replicas or ():
            owned = [part for part in member.partitions if part < len(view.partitions)]
            member.rate = sum(view.partitions[part].rate for part in owned)
        return view

    def close(self) -> None:
        """Release the client of the group. May be called twice."""
        self._committed.close()

    def _replicas(self) -> list[ReplicaView]:
        from tutelage.transport.group_members import group_members

        members = group_members(
            self._connection, self._group, self._queries, admin=self._admin.admin
        )
        return sorted(
            (
                ReplicaView(client=client, host=host.lstrip("/"), partitions=partitions, rate=0.0)
                for client, host, partitions in members
            ),
            key=lambda member: (member.partitions or [1 << 31], member.client),
        )

    def _partitions(self, count: int, replicas: list[ReplicaView]) -> list[QueriesView]:
        committed = self._committed.committed(self._queries, count)
        # In this order: what is written in between counts as waiting.
        lows, ends = self._admin.first_offsets(count), self._admin.end_offsets(count)
        starts = self._begins(committed, lows, ends)
        answered = [
            min(end, max(low, starts[part] if offset is None else offset))
            for part, (offset, low, end) in enumerate(zip(committed, lows, ends, strict=True))
        ]
        window = self._window
        if window is None or len(window.oldest) != count:
            window = self._window = RateWindow()
        window.add(answered)
        elapsed_s = window.elapsed_s
        owners = {part: member.client for member in replicas for part in member.partitions}
        written = self._oldest(answered, ends)
        return [
            QueriesView(
                answered=done,
                end=end,
                rate=max(0.0, (done - before) / elapsed_s) if elapsed_s > 0 else 0.0,
                oldest_s=max(0.0, time.time() - written[part]) if part in written else None,
                owner=owners.get(part),
            )
            for part, (done, before, end) in enumerate(
                zip(answered, window.oldest, ends, strict=True)
            )
        ]

    def _begins(
        self, committed: list[int | None], lows: list[int], ends: list[int]
    ) -> dict[int, int]:
        """Where the newest run of queries begins, in partitions for which nothing is committed."""
        missing = [
            part
            for part, offset in enumerate(committed)
            if offset is None and ends[part] > lows[part]
        ]
        if missing and time.monotonic() >= self._starts_due_s:
            self._starts_due_s = time.monotonic() + _STARTS_S
            found = self._runs.newest()
            if found is not None:
                mine = range(min(len(committed), found.stream.partitions))
                # Partitions behind those of the run hold older runs alone.
                self._starts = dict(enumerate(ends)) | self._runs.starts_in(
                    found.stream, len(committed), mine
                )
        return {part: self._starts.get(part, lows[part]) for part in range(len(committed))}

    def _oldest(self, answered: list[int], ends: list[int]) -> dict[int, float]:
        """When the first query without an answer was written, by partition, in seconds."""
        waiting = {
            part: done
            for part, (done, end) in enumerate(zip(answered, ends, strict=True))
            if end > done
        }
        unknown = {
            part: (done, done + 1)
            for part, done in waiting.items()
            if self._written.get(part, (-1, 0.0))[0] != done
        }
        for part, messages in self._runs.messages(unknown, sparing=True).items():
            if messages:
                self._written[part] = waiting[part], messages[0].timestamp()[1] / 1000
        return {
            part: self._written[part][1]
            for part, done in waiting.items()
            if self._written.get(part, (-1, 0.0))[0] == done
        }
