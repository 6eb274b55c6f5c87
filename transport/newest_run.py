"""Finds the newest run of a topic by one record, where that is enough.

That record is the last one of partition 0, which holds the first record of every run. If the run's
own records before it fill all offsets from the run's beginning on, no other run began in between.
"""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import Message

from tutelage.schemas.errors import DataError, SchemaError
from tutelage.schemas.limits import Limits
from tutelage.schemas.record import RecordHead, Stream
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.runs import FoundRun, TopicRuns, is_of_run, newest_of, starting_with
from tutelage.transport.tail import HeadReader
from tutelage.transport.topic_admin import KafkaTopic


class NewestRun:
    """Finds the newest run of one topic.

    Args:
        connection: How to reach the cluster and the registry.
        topic: The topic.
        limits: How large records, schemas and shapes may be.
        admin: Asks about the topic.
    """

    def __init__(
        self, connection: KafkaConnection, topic: str, limits: Limits, admin: KafkaTopic
    ) -> None:
        self._runs = TopicRuns(connection, topic, limits, admin=admin)
        self._admin = admin
        self._heads = HeadReader(connection, topic, limits)
        self._limits = limits

    def find(self) -> FoundRun | None:
        """Return the run that began last; None if partition 0 has no record of a run.

        Up to 16 MB of records are read where the last one does not tell: where records were written
        twice, transactions left markers, retention took the run's beginning, or two runs' writers
        wrote at the same time.

        Raises:
            DataError: The records of the newest run have damaged headers.
        """
        low, end = self._admin.first_offsets(1)[0], self._admin.end_offsets(1)[0]
        last = self._read(end - 1) if end > low else ()
        try:
            if (found := newest_of(last, self._limits)) and self._is_alone(found):
                return found
        except (DataError, SchemaError):
            # A run that is newer may be sound.
            pass
        return self._runs.newest()

    def _is_alone(self, last: FoundRun) -> bool:
        """Whether only the run's records lie between its beginning and its last record."""
        begin = self._admin.offsets(1, starting_with(last.stream))[0]
        offset, head = last.message.offset() or 0, self._heads.read(last.message)
        of_pass = _records(head.sequence, last.stream)
        before = of_pass
        if head.pass_index:
            end_at = offset - of_pass - 1
            end = head if head.end is not None else None
            if end is None and 0 <= begin <= end_at:
                end = self._end_at(end_at, last.stream)
            if end is None:
                return False
            # Every partition has the end of every pass.
            before += head.pass_index * (_records(end.sequence, last.stream) + 1)
        return 0 <= begin == offset - before

    def _end_at(self, offset: int, stream: Stream) -> RecordHead | None:
        """The head of the end record at an offset; None if another record lies there."""
        for message in self._read(offset):
            if is_of_run(message, stream) and (head := self._heads.read(message)).end is not None:
                return head
        return None

    def _read(self, offset: int) -> Sequence[Message]:
        return self._runs.messages({0: (offset, offset + 1)}, sparing=True)[0]


def _records(sequence: int, stream: Stream) -> int:
    """How many of a pass's records before `sequence` lie in partition 0."""
    return -(-sequence // stream.partitions)
