"""Records -> a `MemoryTopic`, for tests within one process.

Partitions, offsets, runs and restarts work as they do on a broker.
"""

from __future__ import annotations

from tutelage.producers.record_share import ALL_RECORDS, RecordShare
from tutelage.producers.sinks.base import ControlChannel, Sink
from tutelage.producers.sinks.placement import MissingRecords
from tutelage.schemas.codec import Codec, Encoded
from tutelage.schemas.errors import SinkExists
from tutelage.schemas.headers import stream_headers
from tutelage.schemas.knowledge_schema import description_from_schema, schema_from_description
from tutelage.schemas.record import Description, RecordHead, Stream
from tutelage.schemas.tail import Tail, tail_from_heads
from tutelage.transport.memory_topic import MemoryTopic, StoredRecord


class MemorySink(Sink):
    """Writes to a `MemoryTopic`, for tests within one process.

    Guarantee: a `MemorySource` of the same topic reads what a topic on a broker would give:
    partitions, offsets, several runs, restarts and control messages included.

    Args:
        topic: The topic to write to.

    Raises:
        SinkExists: The topic holds another run; raised by `Teacher.start`.
    """

    holds_runs = True

    def __init__(self, topic: MemoryTopic) -> None:
        self._topic = topic
        self._headers: list[tuple[str, bytes]] = []
        self._schema = ""
        self._share = ALL_RECORDS
        self._missing = MissingRecords.of_new_run(topic.partitions)
        self._control = topic.conversation("teacher")
        self.partitions = topic.partitions

    def __repr__(self) -> str:
        return f"MemorySink({self._topic.name!r}, {self._topic.partitions} partitions)"

    @property
    def name(self) -> str:
        return f"memory topic {self._topic.name!r}"

    @property
    def label(self) -> str:
        return self._topic.name

    def share_with(self, share: RecordShare) -> None:
        self._share = share
        self._place_new_run()

    def look_again(self, run_id: str) -> Tail | None:
        tail = self.tail()
        return tail if tail is not None and tail.stream.run_id == run_id else None

    def tail(self) -> Tail | None:
        stream = self._topic.newest_run()
        if stream is None:
            return None
        logs = [[each for each in log if each.run_id == stream.run_id] for log in self._topic.logs]
        description = description_from_schema(
            next(log[-1].schema for log in logs if log), self.name
        )
        codec = Codec(description)
        heads = [[codec.decode(each.body, self.name).head for each in log] for log in logs]
        owned = self._share.owned(self._topic.partitions)
        tail, first_missing = tail_from_heads(stream, description, heads, owned)
        self._missing = MissingRecords(first_missing, owned)
        return tail

    def begin_run(self, run_id: str | None) -> None:
        if run_id is not None and self._topic.holds(run_id):
            raise SinkExists(
                f"{self.name} holds run {run_id}, and a newer one behind it; only the newest run "
                "is continued"
            )
        self._place_new_run()

    def _place_new_run(self) -> None:
        count = self._topic.partitions
        self._missing = MissingRecords.of_new_run(count, self._share.owned(count))

    def open(self, stream: Stream, description: Description) -> None:
        if stream.partitions != self._topic.partitions:
            raise SinkExists(
                f"{self.name} has {self._topic.partitions} partitions, the run {stream.partitions}"
            )
        self._schema = schema_from_description(description)
        self._headers = stream_headers(stream, description)

    def pack(self, encoded: Encoded) -> bytes:
        return encoded.joined()

    def write(self, head: RecordHead, packed: bytes) -> None:
        for partition in self._missing.partitions_without(head):
            self._topic.logs[partition].append(
                StoredRecord(headers=self._headers, schema=self._schema, body=packed)
            )

    def finish(self) -> None:
        return None

    def close(self) -> None:
        return None

    def bind_run(self, run_id: str) -> None:
        self._control.conversation.run_id = run_id

    def _control_channel(self) -> ControlChannel:
        return self._control
