"""Waits for a topic and for a run in it, and decides at which offsets reading begins.

Enters: a topic, the choice of a run, a position. Leaves: an `OpenRun`, and a reader that is
assigned to the right offsets. It decodes no records.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tutelage.consumers.position import Position
from tutelage.consumers.sources.base import ConsumedRecord, StreamInfo
from tutelage.schemas.errors import TopicIdentityError, TransportError
from tutelage.schemas.limits import Limits
from tutelage.schemas.topic import BEGINNING, first_in
from tutelage.transport.beginnings import Beginnings, where_to_begin
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.outages import is_outage, through_outages
from tutelage.transport.partition_reader import Message, PartitionReader
from tutelage.transport.run_choice import RunChoice
from tutelage.transport.run_messages import RunMessages
from tutelage.transport.runs import TopicRuns, unlike
from tutelage.transport.tail import read_tail
from tutelage.transport.topic_admin import KafkaTopic
from tutelage.transport.waiting import Wait

log = logging.getLogger(__name__)

_POLL_S = 0.2


@dataclass(kw_only=True, slots=True)
class OpenRun:
    """A run that was found in its topic.

    Args:
        info: The stream, as `Source.open` returns it.
        messages: Decodes the run's messages.
        lows: Per partition of the topic, the first offset that the broker had.
        begins: Partition -> an offset at or before the run's first record, as far as it is known.
        first: The message that was fetched while the run was looked for, if reading the run from
            its beginning continues right after it.
    """

    info: StreamInfo
    messages: RunMessages
    lows: list[int]
    begins: dict[int, int]
    first: Message | None

    def take_first(self) -> Message | None:
        """Return `first`, once: the reader is at the message after it only until it is used."""
        first, self.first = self.first, None
        return first

    def decode(self, message: Message) -> ConsumedRecord:
        """Decode the record in a message of this run."""
        found = self.messages.decode(message)
        return ConsumedRecord(
            partition=found.partition,
            offset=found.offset,
            next_offset=found.offset + 1,
            record=found.record,
            where=found.where,
            decode_s=found.seconds,
        )

    def offsets_of(self, position: Position) -> tuple[int, ...]:
        """The offset to read from in each partition; BEGINNING where no record was used."""
        return position.offsets or (BEGINNING,) * self.info.partitions


def wait_for_partitions(admin: KafkaTopic, wait: Wait) -> int:
    """Wait for a topic to appear, and return the number of its partitions.

    Raises:
        WaitTimeout: It did not appear in time.
        AccessDenied: It exists, but access is denied, so waiting would be in vain.
    """
    while not (partitions := through_outages(admin.partitions, wait)):
        through_outages(admin.check_visible, wait)
        wait.tick()
        time.sleep(_POLL_S)
    return partitions


class RunFinder:
    """Finds the run to read, and assigns the reader to its offsets.

    Args:
        connection: How Kafka is reached.
        topic: The topic's name.
        admin: Asks about the topic.
        reader: Fetches its messages.
        limits: How large records, schemas and shapes may be.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        topic: str,
        admin: KafkaTopic,
        reader: PartitionReader,
        limits: Limits,
    ) -> None:
        self._connection = connection
        self._topic = topic
        self._admin = admin
        self._reader = reader
        self._limits = limits

    def find(
        self,
        choice: RunChoice,
        identity: Mapping[str, str],
        *,
        partitions: int,
        timeout_s: float,
        sparing: bool,
    ) -> OpenRun:
        """Wait for the run's first record, and return the run.

        Args:
            choice: Which run to read.
            identity: The ids of cluster and topic.
            partitions: The number of the topic's partitions.
            timeout_s: How long to wait, in seconds.
            sparing: Whether to fetch no more than it takes, instead of what is read next.

        Raises:
            WaitTimeout: The run did not appear in time.
            RetentionLoss: A checkpoint's run is no longer in the topic.
            TopicIdentityError: The topic has fewer partitions than the run.
        """
        wait = Wait(choice.awaited, timeout_s=timeout_s, log=log, hint="is its teacher running?")
        lows = through_outages(lambda: self._admin.first_offsets(partitions), wait)
        ends = through_outages(lambda: self._admin.end_offsets(partitions), wait)
        first: Message | None = None
        # Every run's first record is in partition 0.
        found = choice.newest(self._admin, wait) if ends[0] > lows[0] else None
        if found is None:
            # A checkpoint's run is read on elsewhere.
            sparing = sparing or choice.is_resumed
            wanted = {0: lows[0]} if sparing else dict(enumerate(lows))
            self._reader.begin(self._admin, wanted, sparing=sparing)
            first = self._reader.first(wait)
            if sparing:
                self._reader.close()
            found = choice.find(
                first, self._admin, alone=ends == lows, identity=identity, wait=wait
            )
        stream, is_first = found.stream, found.message is first
        if stream.partitions > partitions:
            raise TopicIdentityError(unlike(self._topic, partitions, stream))
        messages = RunMessages(self._connection, self._topic, found, self._limits)
        return OpenRun(
            info=StreamInfo(
                stream=stream,
                description=messages.description,
                schema=messages.schema,
                partitions=stream.partitions,
            ),
            messages=messages,
            lows=lows,
            begins=dict(enumerate(lows)) if is_first else {},
            # Otherwise the run begins elsewhere, or partitions were added to the topic after the
            # run began, which are not to be read.
            first=first if is_first and stream.partitions >= partitions and not sparing else None,
        )

    def pass_rows(self, run: OpenRun) -> dict[int, int]:
        """The rows of a run's last pass, if the run is the newest of its topic and complete.

        Args:
            run: The run.
        """
        found = read_tail(self._connection, self._topic, self._admin.partitions())
        if found is None or found.tail.stream.run_id != run.info.stream.run_id:
            return {}
        last = found.tail.last
        if not found.tail.complete or last is None or last.end is None:
            return {}
        return {last.pass_index: last.end.rows}

    def assign(
        self, run: OpenRun, position: Position, needed: frozenset[int] | None
    ) -> Beginnings | None:
        """Assign a new consumer to the offsets of a position.

        Where an offset is not known, it is found by counting the records before it.

        Args:
            run: The run.
            position: Where reading begins.
            needed: The partitions to read; all if None.

        Returns:
            What to check of the first record of each partition, or None if no broker answers just
            now.

        Raises:
            TopicIdentityError: A partition ends before the position.
            RetentionLoss: The broker deleted the record that the position says comes next.
        """
        partitions = run.info.partitions
        wanted = range(partitions) if needed is None else needed
        try:
            lows = self._admin.first_offsets(partitions)
            highs = self._admin.end_offsets(partitions)
            self._find_beginnings(run, wanted)
        except TransportError as error:
            if is_outage(error):
                return None
            raise
        # Where the broker has deleted offsets, the run may have begun before what is left.
        begins = [
            begin + position.records_before(partition, partitions)
            if (begin := run.begins.get(partition, low)) > low or not low
            else low
            for partition, low in enumerate(lows)
        ]
        offsets, guesses = where_to_begin(
            self._topic, run.offsets_of(position), lows=lows, highs=highs, begins=begins
        )
        self._reader.begin(
            self._admin,
            {partition: offset for partition, offset in enumerate(offsets) if partition in wanted},
            record_bytes=run.messages.record_bytes,
        )
        first = [
            (position.pass_index, first_in(partition, position.sequence, partitions))
            for partition in range(partitions)
        ]
        return Beginnings(lows, guesses, first)

    def _find_beginnings(self, run: OpenRun, wanted: Collection[int]) -> None:
        """Find where the run begins in some partitions, unless that is known."""
        unknown = [partition for partition in wanted if partition not in run.begins]
        if unknown:
            stream = run.info.stream
            runs = TopicRuns(self._connection, self._topic, admin=self._admin)
            run.begins |= runs.starts_in(stream, stream.partitions, unknown)
