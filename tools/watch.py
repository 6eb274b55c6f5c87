"""Topics, a group's offsets and metrics ports -> what `watch` shows, each time it is asked.

Draws nothing, and leaves the sentences to `verdicts.py`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tutelage.schemas.errors import TutelageError
from tutelage.schemas.record import Stream
from tutelage.tools.metrics_ports import MetricsPorts
from tutelage.tools.rate_window import RateWindow
from tutelage.tools.replica_groups import ReplicaGroup
from tutelage.tools.watch_view import PartitionView, TopicView, View

if TYPE_CHECKING:
    from tutelage.schemas.tail import Tail
    from tutelage.transport.connection import KafkaConnection

# After this long without a new record it is checked whether the run is complete.
_SETTLED_S = 3.0


class Watcher:
    """Looks at topics of a cluster, at a group's offsets and at metrics ports. Close it.

    Args:
        connection: The cluster.
        topics: The topics to look at.
        group: The group whose progress is shown. None: the only group that reads the topics.
        metrics: The metrics ports of students and replicas, as HOST:PORT or URLs.
        queries: The topic of the queries that the teachers of all these topics answer. None: of
            each topic `TOPIC.queries`, where it exists.
        replicas: The group of the replicas that answer. None: `tutelage-TOPIC`.

    Raises:
        ConfigurationError: The address of a metrics port cannot be parsed.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        topics: Sequence[str],
        *,
        group: str | None,
        metrics: Sequence[str] = (),
        queries: str | None = None,
        replicas: str | None = None,
    ) -> None:
        from tutelage.transport.reading_group import ReadingGroup
        from tutelage.transport.topic_admin import KafkaTopic

        self._connection = connection
        self._topics = {topic: KafkaTopic(self._connection, topic) for topic in topics}
        self._ports = MetricsPorts(metrics)
        self._replicas = [
            ReplicaGroup(connection, topic, queries=queries, group=replicas) for topic in topics
        ]
        self._group = ReadingGroup(self._connection, group)
        # Topic -> its end offsets when it was last checked, and whether its run was complete.
        self._complete: dict[str, tuple[list[int], bool]] = {}
        self._streams: dict[str, Stream] = {}
        # Topic -> its recent end offsets.
        self._ends: dict[str, RateWindow[list[int]]] = {}

    def look(self) -> View:
        """Look once. Takes as long as the answers of the cluster and the metrics ports."""
        trouble: list[str] = []
        topics = []
        for name in self._topics:
            try:
                topics.append(self._topic(name, trouble))
            except TutelageError as error:
                topics.append(TopicView(topic=name))
                trouble.append(str(error))
        group = self._group
        # If no topic could be queried, groups cannot be either, and that would take as long again.
        counts = {topic.topic: len(topic.partitions) for topic in topics if topic.partitions}
        if counts:
            group.look_for(counts)
        if group.trouble is not None:
            trouble.append(group.trouble)
        replicas = []
        # Queries are there before their first answer.
        if not trouble or counts:
            replicas = [seen for each in self._replicas if (seen := each.look(trouble)) is not None]
        student, replica_metrics = self._ports.look(trouble)
        return View(
            topics=topics,
            replicas=replicas,
            replica_metrics=replica_metrics,
            student=student,
            trouble=trouble,
            group=group.name,
            groups=group.others,
            too_many_groups=group.too_many,
        )

    def close(self) -> None:
        """Close the clients. Those for administration are closed when they are deleted."""
        self._group.close()
        for each in self._replicas:
            each.close()
        self._connection.registry.close()

    def _topic(self, name: str, trouble: list[str]) -> TopicView:
        """Look at one topic. What cannot be read of it goes to `trouble`; the rest is returned."""
        admin = self._topics[name]
        count = admin.partitions()
        if not count:
            admin.check_visible()
            return TopicView(topic=name)
        stream: Stream | None = None
        try:
            stream = self._stream(name, count)
            if stream is None:
                return TopicView(topic=name)
            # Partitions that were added later hold nothing of this run.
            count = min(count, stream.partitions)
        except TutelageError as error:
            # Its records cannot be read, or name more partitions than the topic has.
            trouble.append(str(error))
        partitions = self._partitions(name, count, trouble)
        last = admin.last_timestamp(count)
        quiet_s = max(0.0, time.time() - last) if last is not None else None
        view = TopicView(topic=name, partitions=partitions, quiet_s=quiet_s)
        if stream is not None:
            view.teacher = stream.teacher
            view.passes = stream.passes
            view.rows_per_record = stream.rows_per_record
            view.finished = (
                quiet_s is not None
                and quiet_s > _SETTLED_S
                and self._is_complete(name, [part.end for part in partitions])
            )
        return view

    def _partitions(self, name: str, count: int, trouble: list[str]) -> list[PartitionView]:
        admin = self._topics[name]
        lows, ends = admin.first_offsets(count), admin.end_offsets(count)
        committed: list[int | None]
        try:
            committed = list(self._group.committed(name, count))
        except TutelageError as error:
            committed = [None] * count
            trouble.append(str(error))
        window = self._ends.get(name)
        if window is None or len(window.oldest) != count:
            window = self._ends[name] = RateWindow()
        window.add(ends)
        elapsed_s = window.elapsed_s
        return [
            PartitionView(
                first=low,
                read=read,
                end=end,
                rate=(end - oldest) / elapsed_s if elapsed_s > 0 else 0.0,
            )
            for low, read, end, oldest in zip(lows, committed, ends, window.oldest, strict=True)
        ]

    def _is_complete(self, name: str, ends: list[int]) -> bool:
        """Whether a topic's run has all its end records; checked again only after new records."""
        if self._complete.get(name, ([], False))[0] != ends:
            tail = self._tail(name)
            self._complete[name] = (ends, tail is not None and tail.complete)
            if tail is not None:
                # A newer run may have started.
                self._streams[name] = tail.stream
        return self._complete[name][1]

    def _stream(self, name: str, partitions: int) -> Stream | None:
        """The stream in a topic; read again if the topic was recreated with fewer partitions."""
        known = self._streams.get(name)
        if known is None or known.partitions > partitions:
            tail = self._tail(name)
            if tail is None:
                return None
            self._streams[name] = tail.stream
        return self._streams[name]

    def _tail(self, name: str) -> Tail | None:
        from tutelage.transport.tail import read_tail

        found = read_tail(self._connection, name, self._topics[name].partitions())
        return found.tail if found is not None else None
