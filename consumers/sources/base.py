"""Where a stream comes from: the seam between fetching records and putting them in order.

A source gives records as they lie in each partition, duplicates included. `stages/order.py` puts
them in order.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tutelage.consumers.position import Position
from tutelage.schemas.container_reader import StoredRecord
from tutelage.schemas.errors import ConfigurationError, TutelageError
from tutelage.schemas.record import Description, Record, Stream

log = logging.getLogger(__name__)


# Memory for the objects around a record's bytes and around each of its columns. With tiny records
# they are nearly all that a record takes.
_RECORD_BYTES = 1 << 10
_COLUMN_BYTES = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsumedRecord:
    """A record as it lies in its partition.

    Args:
        partition: Its partition.
        offset: Reading from here gives the record again.
        next_offset: Reading from here gives what follows it.
        record: The record; one of a file may still be in the file.
        where: Its place in words, for messages.
        decode_s: Seconds that decoding it took.
    """

    partition: int
    offset: int
    next_offset: int
    record: Record | StoredRecord
    where: str
    decode_s: float = 0.0

    @property
    def stored(self) -> StoredRecord | None:
        """The record if its tensors are still in a file, else None."""
        return self.record if isinstance(self.record, StoredRecord) else None

    @property
    def memory_bytes(self) -> int:
        """Approximate memory that it takes; next to nothing if it is still in its file."""
        if isinstance(self.record, StoredRecord):
            return _RECORD_BYTES
        return self.record.nbytes + _RECORD_BYTES + _COLUMN_BYTES * len(self.record.columns)

    def loaded(self) -> ConsumedRecord:
        """The same record in memory, its checksum verified."""
        return replace(self, record=self.record.load())


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamInfo:
    """What a source found of a stream.

    Args:
        stream: The run: who wrote it, and how it is cut into records.
        description: Key -> dtype and row shape.
        schema: The Avro schema's text.
        partitions: In how many partitions the records lie here.
    """

    stream: Stream
    description: Description
    schema: str
    partitions: int


class Source(ABC):
    """Reads one teacher's stream. Derive from it to read from a place of your own.

    A student calls `connect` when it starts, `choose_run` if it goes on from a checkpoint, `open`
    once the stream is needed, `read` for each pass, and `close` at the end. A source holds nothing
    before `open`, so that it can be pickled to DataLoader workers.

    Guarantee: every record of every partition comes in offset order, none twice and none skipped,
    or an error is raised.
    """

    #: Records of other runs that lay among those of this one: written by a teacher that was thought dead. They were passed over.
    stale_records: int = 0
    #: Bytes worth reading ahead where that is less than the student's budget; 0 where more is better.
    ahead_bytes: int = 0

    @property
    @abstractmethod
    def name(self) -> str:
        """What people call it: a topic or a file. Used in messages."""

    @property
    def label(self) -> str:
        """Its name alone, without what kind of place it is: the label of metrics."""
        return self.name.removeprefix("topic ")

    def is_same(self, other: Source) -> bool:
        """Say whether another source reads the same stream.

        Args:
            other: The other source.

        Returns:
            True if it does.
        """
        return self is other or repr(self) == repr(other)

    def ends(self) -> Sequence[tuple[int, int]]:
        """Return each partition's first offset and its end, as last seen.

        Never waits; safe in any thread.

        Returns:
            One pair a partition; empty if they are not known.
        """
        return ()

    def connect(self) -> None:
        """Load what reading takes, without waiting for anything.

        Raises:
            ConfigurationError: The place cannot exist, such as a file that is missing.
        """
        return

    def choose_run(self, run_id: str, identity: Mapping[str, str]) -> None:
        """Read the run that a checkpoint was taken of, unless another was asked for.

        Called before `open`.

        Args:
            run_id: The run's name.
            identity: What `identity` returned when the checkpoint was taken.
        """
        return

    @abstractmethod
    def open(self, timeout_s: float) -> StreamInfo:
        """Find the stream, and wait for its first record. A second call returns the same at once.

        Args:
            timeout_s: How long to wait, in seconds.

        Returns:
            Who wrote the stream, what its records hold, and in how many partitions they lie.

        Raises:
            WaitTimeout: No record came in time.
            DataError: What is there is no stream, or is damaged.
            TransportError: It could not be reached.
        """

    @abstractmethod
    def read(self, position: Position) -> Generator[ConsumedRecord | None, None, None]:
        """Yield the records from a position on, without end.

        Args:
            position: The next record's pass and sequence, and the offset of each partition to read
                from.

        Yields:
            A record with its partition and offset; None each time nothing of the stream came for
            a moment.

        Raises:
            DataError: Data are wrong or missing; the message says where.
            TransportError: Reading failed.
        """

    def hold(self, partitions: frozenset[int]) -> None:
        """Fetch nothing from some partitions for now: too many of their records wait.

        A new `read` holds none.

        Args:
            partitions: The partitions to leave alone.
        """
        return

    def reached(self) -> Sequence[tuple[int, int]]:
        """Return how far `read` has come in each partition. Waits for nothing; for the thread that reads.

        Returns:
            For each partition the next offset, and its end when that was last heard of; zeros where
            nothing is known.
        """
        return ()

    def explain(self, error: TutelageError) -> TutelageError:
        """Find the cause of an error that ended the reading, such as a topic that was recreated.

        Args:
            error: The error.

        Returns:
            The error to raise: the cause if it is known, else the same error.
        """
        return error

    def identity(self) -> Mapping[str, str]:
        """Return what must be the same for a position to be valid, besides the run.

        Returns:
            Names and values, such as the ids of cluster and topic; kept in checkpoints.
        """
        return {}

    @property
    def commits(self) -> bool:
        """Whether somebody watches how far the student has come."""
        return False

    def commit(self, position: Position) -> None:
        """Tell whoever watches how far the student has come.

        Args:
            position: Where reading would go on.
        """
        return

    @property
    def online(self) -> bool:
        """Whether a teacher may be there to talk to."""
        return False

    def send(self, value: Any) -> None:
        """Send a control message to the teacher.

        Args:
            value: A JSON-like value that may hold arrays and bytes.

        Raises:
            ConfigurationError: The teacher is not there to talk to, as with a file.
        """
        raise ConfigurationError(f"{self.name} is a file: its teacher is not there to talk to")

    def recv(self, timeout_s: float) -> Any:
        """Return the teacher's next control message.

        Args:
            timeout_s: How long to wait, in seconds.

        Returns:
            The value that was sent.

        Raises:
            ConfigurationError: The teacher is not there to talk to, as with a file.
            WaitTimeout: No message came in time.
        """
        raise ConfigurationError(f"{self.name} is a file: its teacher is not there to talk to")

    def ask(self, value: Any, timeout_s: float) -> Any:
        """Send a control message and return the teacher's answer to it.

        Args:
            value: A JSON-like value that may hold arrays and bytes.
            timeout_s: How long to wait, in seconds.

        Returns:
            The answer.

        Raises:
            ConfigurationError: The teacher is not there to talk to, as with a file.
            WaitTimeout: No answer came in time.
        """
        raise ConfigurationError(f"{self.name} is a file: its teacher is not there to talk to")

    @abstractmethod
    def close(self) -> None:
        """Release everything. `open` may be called again. May be called twice."""
