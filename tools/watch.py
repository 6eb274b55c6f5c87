"""What `watch` shows: topics, a group's progress and what metrics say, looked at now and then and put into words. Draws nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from tutelage.schemas.errors import TutelageError
from tutelage.schemas.record import Stream
from tutelage.tools.scraping import Samples, combine_samples, parse_metrics_address, scrape

if TYPE_CHECKING:
    from tutelage.schemas.tail import Tail
    from tutelage.transport.connection import KafkaConnection

Seen = TypeVar("Seen")

# Rates are of so many seconds, as far as there was looked.
_RATE_S = 10.0
# Nothing written for so long is worth a look at whether the run is whole; and a word if it is not.
_SETTLED_S, _QUIET_S = 3.0, 30.0
# So much of its time waiting makes a student a starving one.
STARVING = 0.2
# Who is waited for nearly as long as the slowest is as slow.
_AS_SLOW = 0.75


@dataclass(kw_only=True, slots=True)
class PartitionView:
    """One partition: its first offset, where the group goes on (None if it committed nothing), its end, and records a second."""

    first: int
    read: int | None
    end: int
    rate: float

    @property
    def behind(self) -> int | None:
        """Records between the group and the end."""
        return None if self.read is None else max(0, self.end - self.read)


@dataclass(kw_only=True, slots=True)
class TopicView:
    """One topic, as far as it is there."""

    topic: str
    teacher: str = ""
    passes: int = 0
    rows_per_record: int = 0
    partitions: list[PartitionView] = field(default_factory=list)
    quiet_s: float | None = None
    finished: bool = False

    @property
    def behind(self) -> int | None:
        """Records the group is behind, None where it committed nothing."""
        known = [part.behind for part in self.partitions if part.behind is not None]
        return sum(known) if known else None

    @property
    def rate(self) -> float:
        """Records a second that come in."""
        return sum(part.rate for part in self.partitions)


@dataclass(kw_only=True, slots=True)
class StudentView:
    """What a student's metrics say, over the last seconds; waits by teacher, as shares of the time."""

    starved: float | None = None
    waits: dict[str, float] = field(default_factory=dict)
    duplicates: int = 0
    zombies: int = 0
    checkpoint_s: float | None = None
    rows_rate: float | None = None


@dataclass(kw_only=True, slots=True)
class View:
    """All of it at one moment. `trouble` is what could not be looked at, in words; `groups` are several that read, where none was named;
    `too_many_groups` is how many there are if they were not looked through."""

    topics: list[TopicView]
    student: StudentView | None
    trouble: list[str]
    group: str | None = None
    groups: list[str] = field(default_factory=list)
    too_many_groups: int = 0

    def verdicts(self) -> list[tuple[str, str]]:
        """The answers, each with how it is: good, warning or bad."""
        lines = [("bad", line) for line in self.trouble]
        lines += [
            (
                "warning",
                f"topic {topic.topic} is not there yet, or holds nothing: its teacher has not begun",
            )
            for topic in self.topics
            if not topic.partitions
        ]
        lines += [
            (
                "warning",
                f"{topic.topic}: not finished, and nothing was written for {topic.quiet_s:.0f} s; is its teacher running?",
            )
            for topic in self.topics
            if topic.quiet_s is not None and topic.quiet_s > _QUIET_S and not topic.finished
        ]
        lines += [
            ("good", f"{topic.topic}: its run is whole") for topic in self.topics if topic.finished
        ]
        lines += [
            (
                "warning",
                f"group {self.group} has committed nothing for {topic.topic}: is that the name given to learn --group?",
            )
            for topic in self.topics
            if self.group is not None and topic.partitions and topic.behind is None
        ]
        if self.groups:
            lines.append(
                (
                    "plain",
                    f"read by the groups {', '.join(self.groups)}: --group NAME shows how far one is",
                )
            )
        if self.too_many_groups:
            lines.append(
                (
                    "plain",
                    f"{self.too_many_groups:,} groups are not looked through: --group NAME shows how far one is",
                )
            )
        if self.student is not None:
            lines += self._of_student(self.student)
        behind = {topic.topic: topic.behind for topic in self.topics if topic.behind is not None}
        reader = f" (group {self.group})" if self.group is not None else ""
        if any(behind.values()):
            name, records = max(behind.items(), key=lambda item: item[1])
            lines.append(
                (
                    "plain",
                    f"behind: {records:,} {'record' if records == 1 else 'records'} of {name}{reader}",
                )
            )
        elif behind:
            lines.append(("good", f"behind: nothing, all that is there is read{reader}"))
        return lines

    def _of_student(self, student: StudentView) -> list[tuple[str, str]]:
        lines = []
        if student.starved is not None:
            longest = max(student.waits.values(), default=0.0)
            slow = [
                teacher
                for teacher, share in student.waits.items()
                if share and share >= _AS_SLOW * longest
            ]
            if student.starved >= STARVING:
                waits = (
                    f"; the slow one is {slow[0]}"
                    if len(slow) == 1
                    else f"; {' and '.join(slow)} are as slow"
                    if slow
                    else ""
                )
                lines.append(
                    (
                        "bad",
                        f"the student starves: {student.starved:.0%} of its time it waits for batches{waits}",
                    )
                )
            else:
                lines.append(
                    (
                        "good",
                        f"the student is fed: {student.starved:.0%} of its time it waits for batches",
                    )
                )
        if student.duplicates or student.zombies:
            said = f"dropped: {student.duplicates:,} records written twice"
            lines.append(
                (
                    "warning",
                    said
                    + (
                        f"; {student.zombies:,} of a writer thought dead came"
                        if student.zombies
                        else ""
                    ),
                )
            )
        else:
            lines.append(("good", "dropped: nothing"))
        if student.checkpoint_s is not None:
            lines.append(("plain", f"last checkpoint {student.checkpoint_s:.0f} s ago"))
        return lines


class Watcher:
    """Looks at topics of a cluster, at a group's offsets and at metrics. Close it."""

    def __init__(
        self,
        connection: KafkaConnection,
        topics: Sequence[str],
        *,
        group: str | None,
        metrics: Sequence[str],
    ) -> None:
        from tutelage.transport.reading_group import ReadingGroup
        from tutelage.transport.topic_admin import KafkaTopic

        self._connection = connection
        self._topics = {topic: KafkaTopic(self._connection, topic) for topic in topics}
        self._metrics = [parse_metrics_address(given) for given in metrics]
        self._group = ReadingGroup(self._connection, topics, group)
        self._whole: dict[str, tuple[list[int], bool]] = {}
        self._streams: dict[str, Stream] = {}
        self._ends: dict[str, list[tuple[float, list[int]]]] = {}
        self._samples: list[tuple[float, Samples]] = []

    def look(self) -> View:
        """Look once; takes as long as the cluster's answers do."""
        trouble: list[str] = []
        topics = []
        for name in self._topics:
            try:
                topics.append(self._topic(name, trouble))
            except TutelageError as error:
                topics.append(TopicView(topic=name))
                trouble.append(str(error))
        group = self._group
        # Where no topic could be looked at, groups cannot either, after just as long a wait.
        if any(topic.partitions for topic in topics):
            group.look_for()
        if group.trouble is not None:
            trouble.append(group.trouble)
        return View(
            topics=topics, student=self._student(trouble), trouble=trouble,
            group=group.name, groups=group.others, too_many_groups=group.too_many,
        )  # fmt: skip

    def _topic(self, name: str, trouble: list[str]) -> TopicView:
        asked = self._topics[name]
        count = asked.partitions()
        if not count:
            asked.refuse_hidden()
            return TopicView(topic=name)
        stream: Stream | None = None
        try:
            stream = self._stream(name, count)
            if stream is None:
                return TopicView(topic=name)
            # Partitions that were added later hold nothing of this run.
            count = min(count, stream.partitions)
        except TutelageError as error:
            # Its records cannot be read, or say more partitions than it has: the topic itself is there to be seen.
            trouble.append(str(error))
        lows, ends = asked.first_offsets(count), asked.end_offsets(count)
        try:
            read = self._group.committed(name, count)
        except TutelageError as error:
            # The topic itself is there to be seen.
            read = [None] * count
            trouble.append(str(error))
        history = self._ends.setdefault(name, [])
        if history and len(history[-1][1]) != count:
            history.clear()
        _remember(history, ends)
        (began, before), (now, _) = history[0], history[-1]
        last = asked.last_timestamp(count)
        quiet_s = max(0.0, time.time() - last) if last is not None else None
        return TopicView(
            topic=name,
            teacher=stream.teacher if stream is not None else "",
            passes=stream.passes if stream is not None else 0,
            rows_per_record=stream.rows_per_record if stream is not None else 0,
            partitions=[
                PartitionView(
                    first=low,
                    read=at,
                    end=end,
                    rate=(end - then) / (now - began) if now > began else 0.0,
                )
                for low, at, end, then in zip(lows, read, ends, before, strict=True)
            ],
            quiet_s=quiet_s,
            finished=stream is not None
            and quiet_s is not None
            and quiet_s > _SETTLED_S
            and self._is_whole(name, ends),
        )

    def _is_whole(self, name: str, ends: list[int]) -> bool:
        """Whether a topic's run has all its ends; looked up again only where something was written."""
        if self._whole.get(name, ([], False))[0] != ends:
            tail = self._tail(name)
            self._whole[name] = (ends, tail is not None and tail.complete)
            if tail is not None:
                # A newer run may have begun.
                self._streams[name] = tail.stream
        return self._whole[name][1]

    def _stream(self, name: str, partitions: int) -> Stream | None:
        """Who writes a topic of so many partitions, by the headers of its tail. Looked up again where the topic was made anew with fewer."""
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

    def _student(self, trouble: list[str]) -> StudentView | None:
        if not self._metrics:
            return None
        found = []
        for place in self._metrics:
            try:
                found.append(scrape(place))
            except TutelageError as error:
                trouble.append(str(error))
        values = combine_samples(found)
        _remember(self._samples, values)
        return self._student_of(values, trouble) if found else None

    def _student_of(self, values: Samples, trouble: list[str]) -> StudentView | None:
        prefix = "tutelage_consumer_"
        if (f"{prefix}delivered_rows_total", "") not in values:
            places = ", ".join(map(str, self._metrics))
            trouble.append(
                f"{places}: no student's metrics; a teacher's port? (learn --metrics-port)"
            )
            return None
        (began, before), (now, _) = self._samples[0], self._samples[-1]

        def grown(name: str, teacher: str = "") -> float:
            key = (prefix + name, teacher)
            # What starts again begins with nothing.
            return max(0.0, values.get(key, 0.0) - before.get(key, 0.0))

        waiting = values.get((f"{prefix}waiting_seconds", ""), 0.0)
        spent = grown("starved_seconds_total") + grown("training_seconds_total")
        starved = (
            grown("starved_seconds_total") / spent if spent > 0 else (1.0 if waiting else None)
        )
        teachers = [teacher for name, teacher in values if name == f"{prefix}wait_seconds_total"]
        elapsed = max(1e-9, now - began)
        return StudentView(
            starved=starved,
            waits={
                teacher: min(1.0, grown("wait_seconds_total", teacher) / elapsed)
                for teacher in teachers
            },
            duplicates=int(
                sum(values.get((prefix + "duplicates_total", teacher), 0.0) for teacher in teachers)
            ),
            zombies=int(
                sum(
                    values.get((prefix + "zombie_records_total", teacher), 0.0)
                    for teacher in teachers
                )
            ),
            checkpoint_s=values.get(("tutelage_checkpoint_age_seconds", "")),
            rows_rate=grown("delivered_rows_total") / elapsed if now > began else None,
        )

    def close(self) -> None:
        """Release the registry's client; the others go with this."""
        self._connection.registry.close()


def _remember(history: list[tuple[float, Seen]], seen: Seen) -> None:
    """Keep what was seen now, and of what was seen before as much as rates are of, at least one."""
    history.append((time.monotonic(), seen))
    while len(history) > 2 and history[-1][0] - history[0][0] > _RATE_S:
        history.pop(0)
