"""Where a stream goes: the seam between making records and keeping them, and the sink in memory.

A sink is asked first what it holds (`tail`), then told what comes (`open`), then given packed records in order. It knows nothing of
models, batches or rows.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tutelage.schemas.codec import Codec, Encoded
from tutelage.schemas.errors import ConfigurationError, LengthMismatch, SinkExists
from tutelage.schemas.knowledge_schema import description_of, schema_of
from tutelage.schemas.memory_topic import Headers, MemoryTopic
from tutelage.schemas.record import Description, RecordHead, Stream
from tutelage.schemas.topic import partition_of, stream_headers, stream_of_headers
from tutelage.schemas.waiting import Wait

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tail:
    """What a sink holds of a run: who wrote it, and the first record that is missing.

    `pass_index` and `sequence` name that record; `complete` says that none is. `generation` is the highest found. `last` is the pass's
    last record that is there, or its end (of a complete run the last pass's). `finished` says that nothing at all is left to do, not even
    to name a file.
    """

    stream: Stream
    description: Description
    pass_index: int
    sequence: int
    generation: int
    complete: bool
    finished: bool
    last: RecordHead | None = None

    def refuse_other_length(self, rows: int, where: str, *, ended: bool) -> None:
        """LengthMismatch if a continued pass came to more rows than what is there allows, or has ended with fewer."""
        last = self.last
        if last is None:
            return
        size = self.stream.rows_per_record
        least = last.end.rows if last.end is not None else last.sequence * size + last.rows
        exact = last.end is not None or last.rows < size
        if (ended and rows < least) or (exact and rows > least):
            raise LengthMismatch(
                f"{where} holds {least} rows of pass {self.pass_index} already, but the inputs gave {rows} this time; a continued run "
                "must read the same inputs again from the beginning"
            )


class Sink(ABC):
    """Keeps one run's records, in order.

    Guarantee: when `finish` returns, every record is kept; a failure raises and never leaves a gap.
    """

    #: Seconds a record may wait for more rows where R is chosen for the user; None where nobody waits for records.
    linger_s: float | None = None
    #: Bytes a record has, about, where R is chosen for the user (or as much as comes within `linger_s`, if less). What is done once a
    #: record costs next to nothing then, on either side, and a few still stay in the processor's cache (docs/performance.md).
    target_record_bytes: int = 4 << 20
    #: Bytes a record may have at most; None where there is no limit.
    max_record_bytes: int | None = None
    #: How many partitions a new run here has.
    partitions: int = 1
    #: The wait for a student or a broker that is under way in `write`, if one is.
    wait: Wait | None = None

    @property
    @abstractmethod
    def name(self) -> str:
        """What people call it: a topic or a file."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What a teacher that writes here is called unless it has a name."""

    @abstractmethod
    def tail(self) -> Tail | None:
        """What it holds already; None if nothing. Called once, before `open`."""

    @abstractmethod
    def open(self, stream: Stream, description: Description) -> None:
        """Begin a new run, or go on with the one `tail` gave."""

    @abstractmethod
    def pack(self, encoded: Encoded) -> Any:
        """A record in the form `write` takes. Called from several threads; the place for copies and compression."""

    @abstractmethod
    def write(self, head: RecordHead, packed: Any) -> None:
        """Keep a record; an end record goes to every partition. Raises what a delivery, this or an earlier one, raised."""

    @abstractmethod
    def finish(self) -> None:
        """Wait until everything is kept for good; the run is complete."""

    @abstractmethod
    def close(self) -> None:
        """Release everything, finished or not. May be called twice."""

    def watch_deliveries(self, observe: Callable[[float], None]) -> None:
        """Have this called with the seconds each delivery takes, where there are deliveries."""
        return

    @property
    def queued(self) -> tuple[int, int]:
        """Records and bytes that `write` took and that are not kept yet."""
        return 0, 0

    @property
    def records_by_partition(self) -> Mapping[int, int]:
        """The records written here since it was opened, ends among them; empty where there are no partitions."""
        return {}

    def settle(self) -> None:
        """Wait until nothing that `write` took refers to the caller's memory any more. Raises what a delivery raised."""
        return

    def poll(self) -> None:
        """Called now and then while the teacher has nothing to write; raises what a delivery raised."""
        return

    def send(self, value: Any) -> None:
        """Send a control message to the student."""
        raise ConfigurationError(f"{self.name} is a file: nobody is there to talk to; send and recv need a topic")

    def recv(self, timeout_s: float) -> Any:
        """The student's next control message."""
        raise ConfigurationError(f"{self.name} is a file: nobody is there to talk to; send and recv need a topic")


def next_record(heads: list[RecordHead], partition: int, partitions: int) -> tuple[int, int]:
    """Pass and sequence of the first record missing in a partition that holds these heads, in offset order, without gaps."""
    if not heads:
        return 0, partition
    last = max(heads, key=lambda head: (head.pass_index, head.end is not None, head.sequence))
    if last.end is not None:
        return last.pass_index + 1, partition
    return last.pass_index, last.sequence + partitions


def is_missing(head: RecordHead, missing: tuple[int, int]) -> bool:
    """Whether a partition whose first missing record is `missing` lacks this one. An end is missing as long as its pass is."""
    pass_index, sequence = missing
    return head.pass_index > pass_index or (
        head.pass_index == pass_index and (head.end is not None or head.sequence >= sequence)
    )


def tail_of(stream: Stream, description: Description, heads: list[list[RecordHead]]) -> tuple[Tail, list[tuple[int, int]]]:
    """The tail of a run from the heads at the end of each partition, and each partition's first missing record."""
    missing = [next_record(found, partition, len(heads)) for partition, found in enumerate(heads)]
    pass_index, sequence = min(missing)
    complete = pass_index >= stream.passes
    found_of_pass = [head for found in heads for head in found if head.pass_index == pass_index - complete]
    tail = Tail(
        stream=stream,
        description=description,
        pass_index=pass_index,
        sequence=sequence,
        generation=max((head.generation for found in heads for head in found), default=0),
        complete=complete,
        finished=complete,
        last=max(found_of_pass, key=lambda head: (head.end is not None, head.sequence), default=None),
    )
    return tail, missing


class MemorySink(Sink):
    """Keeps records in a `MemoryTopic`, for tests of one process: partitions, offsets and restarts as with a broker."""

    def __init__(self, topic: MemoryTopic) -> None:
        self._topic = topic
        self._headers: Headers = []
        self._missing: list[tuple[int, int]] = [(0, partition) for partition in range(topic.partitions)]
        self.partitions = topic.partitions

    def __repr__(self) -> str:
        return f"MemorySink({self._topic.name!r}, {self._topic.partitions} partitions)"

    @property
    def name(self) -> str:
        return f"memory topic {self._topic.name!r}"

    @property
    def label(self) -> str:
        return self._topic.name

    def tail(self) -> Tail | None:
        if not any(self._topic.logs):
            return None
        headers = next(log[-1][0] for log in self._topic.logs if log)
        description = description_of(self._topic.schema, self.name)
        codec = Codec(description)
        heads = [[codec.decode(body, self.name).head for _, body in log] for log in self._topic.logs]
        tail, self._missing = tail_of(stream_of_headers(headers, self.name), description, heads)
        return tail

    def open(self, stream: Stream, description: Description) -> None:
        if stream.partitions != self._topic.partitions:
            raise SinkExists(f"{self.name} has {self._topic.partitions} partitions, the run {stream.partitions}")
        self._topic.schema = schema_of(description)
        self._headers = stream_headers(stream)

    def pack(self, encoded: Encoded) -> bytes:
        return encoded.joined()

    def write(self, head: RecordHead, packed: bytes) -> None:
        where = range(self.partitions) if head.end is not None else (partition_of(head.sequence, self.partitions),)
        for partition in where:
            if is_missing(head, self._missing[partition]):
                self._topic.logs[partition].append((self._headers, packed))

    def finish(self) -> None:
        return None

    def close(self) -> None:
        return None

    def send(self, value: Any) -> None:
        self._topic.to_student.append(value)

    def recv(self, timeout_s: float) -> Any:
        wait = Wait(f"a control message from the student on {self.name}", timeout_s=timeout_s, log=log)
        while not self._topic.to_teacher:
            wait.tick()
            time.sleep(0.005)
        return self._topic.to_teacher.popleft()
