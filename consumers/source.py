"""Where a stream comes from: the seam between fetching records and putting them in order, and the source in memory.

A source gives records as they lie in each partition, duplicates and all. What they mean together is for `order.py`.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.schemas.codec import Codec
from tutelage.schemas.container_reader import StoredRecord
from tutelage.schemas.errors import ConfigurationError
from tutelage.schemas.knowledge_schema import description_of
from tutelage.schemas.memory_topic import MemoryTopic
from tutelage.schemas.record import Description, Record, Stream
from tutelage.schemas.topic import stream_of_headers
from tutelage.schemas.waiting import Wait

log = logging.getLogger(__name__)


#: As a partition's offset: nothing of it was used, read it from its first record.
BEGINNING = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """A record as it lies in its partition. Reading again from `offset` gives it again, from `next_offset` what follows.

    The record of a file may still be in it; `record.load()` is the record in memory, in any case. `decode_s` is what decoding took.
    """

    partition: int
    offset: int
    next_offset: int
    record: Record | StoredRecord
    where: str
    decode_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """A place in a stream: the next record's pass and sequence, the rows of it that are used, and where each partition goes on.

    `offsets` is empty at a stream's beginning, and BEGINNING for a partition of which nothing was used.
    """

    pass_index: int = 0
    sequence: int = 0
    row: int = 0
    offsets: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """What a source found: who wrote the stream, what its records hold, and in how many partitions they lie here."""

    stream: Stream
    description: Description
    schema: str
    partitions: int


class Source(ABC):
    """Reads one teacher's stream.

    Guarantee: every record of every partition comes in offset order, none twice and none skipped, or an error is raised.
    Sources are opened in the process that reads them and hold nothing before, so that they can be handed to DataLoader workers.
    """

    #: Bytes worth reading ahead where that is less than the student's budget; 0 where more is better.
    ahead_bytes: int = 0

    @property
    @abstractmethod
    def name(self) -> str:
        """What people call it: a topic or a file."""

    @property
    def label(self) -> str:
        """Its name alone, without saying what it is: for metrics."""
        return self.name.removeprefix("topic ")

    def is_same(self, other: Source) -> bool:
        """Whether another source reads the same stream."""
        return self is other or repr(self) == repr(other)

    def ends(self) -> Sequence[tuple[int, int]]:
        """Each partition's first offset and its end, as last seen; empty where nobody knows. Asks for newer ones without waiting for them.

        May be called from any thread.
        """
        return ()

    def connect(self) -> None:
        """Load what reading takes, without waiting for anything, so that `open` is quick once the stream is there."""
        return

    @abstractmethod
    def open(self, timeout_s: float) -> Opened:
        """Find the stream, waiting for its first record. Called again, it gives the same answer at once."""

    @abstractmethod
    def read(self, position: Position) -> Generator[Arrival | None, None, None]:
        """The records from a position on, without end; None each time nothing came for a moment."""

    def hold(self, partitions: frozenset[int]) -> None:
        """Fetch nothing from these partitions for now: too much of them waits for another."""
        return

    def identity(self) -> Mapping[str, str]:
        """What must be the same for a position to be valid, besides the run."""
        return {}

    @property
    def commits(self) -> bool:
        """Whether somebody watches how far the student has come."""
        return False

    def commit(self, position: Position) -> None:
        """Tell whoever watches how far the student has come."""
        return

    @property
    def online(self) -> bool:
        """Whether a teacher may be there to talk to."""
        return False

    def send(self, value: Any) -> None:
        """Send a control message to the teacher."""
        raise ConfigurationError(f"{self.name} is a file: its teacher is not there to talk to")

    def recv(self, timeout_s: float) -> Any:
        """The teacher's next control message."""
        raise ConfigurationError(f"{self.name} is a file: its teacher is not there to talk to")

    @abstractmethod
    def close(self) -> None:
        """Release everything. `open` may be called again; may be called twice."""


class MemorySource(Source):
    """Reads a `MemoryTopic`, in the same process as its `MemorySink`."""

    def __init__(self, topic: MemoryTopic) -> None:
        self._topic = topic

    def __repr__(self) -> str:
        return f"MemorySource({self._topic.name!r})"

    @property
    def name(self) -> str:
        return self._topic.name

    def is_same(self, other: Source) -> bool:
        # Topics in memory have no address: two of the same name are two.
        return isinstance(other, MemorySource) and self._topic is other._topic

    @property
    def online(self) -> bool:
        return True

    def open(self, timeout_s: float) -> Opened:
        wait = Wait(f"the first record of memory topic {self.name!r}", timeout_s=timeout_s, log=log)
        while not any(self._topic.logs):
            wait.tick()
            time.sleep(0.005)
        headers = next(log[0][0] for log in self._topic.logs if log)
        description = description_of(self._topic.schema, self.name)
        stream = stream_of_headers(headers, self.name)
        return Opened(stream=stream, description=description, schema=self._topic.schema, partitions=stream.partitions)

    def read(self, position: Position) -> Generator[Arrival | None, None, None]:
        codec = Codec(description_of(self._topic.schema, self.name))
        offsets = [max(0, offset) for offset in position.offsets] or [0] * self._topic.partitions
        while True:
            came = False
            for partition, entries in enumerate(self._topic.logs):
                if offsets[partition] < len(entries):
                    offset = offsets[partition]
                    offsets[partition] += 1
                    came = True
                    where = f"memory topic {self.name}, partition {partition}, offset {offset}"
                    record = codec.decode(entries[offset][1], where)
                    yield Arrival(partition=partition, offset=offset, next_offset=offset + 1, record=record, where=where)
            if not came:
                yield None
                time.sleep(0.005)

    def send(self, value: Any) -> None:
        self._topic.to_teacher.append(value)

    def recv(self, timeout_s: float) -> Any:
        wait = Wait(f"a control message from the teacher of {self.name}", timeout_s=timeout_s, log=log)
        while not self._topic.to_student:
            wait.tick()
            time.sleep(0.005)
        return self._topic.to_student.popleft()

    def close(self) -> None:
        return None
