"""The `Source` interface, and the types that sources return.

A source yields the records of one stream as they lie in each partition, duplicates included. It
does not put them in order or merge partitions: `stages/order.py` does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tutelage.consumers.position import Position
from tutelage.schemas.errors import ConfigurationError, TutelageError
from tutelage.schemas.record import Description, Record, Stream
from tutelage.schemas.stored_block import StoredRecord

# Memory for the Python objects of a record and of each of its columns. Tiny records take little
# else.
_RECORD_BYTES = 1 << 10
_COLUMN_BYTES = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsumedRecord:
    """A record, and where it lies in its partition.

    Args:
        partition: Its partition.
        offset: The offset at which reading gives this record again.
        next_offset: The offset at which reading gives the next record.
        record: The record. The tensors of a record from a file may still be in the file.
        where: Its source, partition and offset in words, for messages.
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
        """The approximate memory that it takes. Small if its tensors are still in a file."""
        if isinstance(self.record, StoredRecord):
            return _RECORD_BYTES
        return self.record.nbytes + _RECORD_BYTES + _COLUMN_BYTES * len(self.record.columns)

    def loaded(self) -> ConsumedRecord:
        """Return the same record in memory, with its checksum verified."""
        return replace(self, record=self.record.load())


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamInfo:
    """What a source knows about its stream once it is open.

    Args:
        stream: The run: who wrote it, and how it is divided into records.
        description: Key -> dtype and row shape.
        schema: The Avro schema as JSON text.
        partitions: The number of partitions in which this source has the records.
    """

    stream: Stream
    description: Description
    schema: str
    partitions: int


class Source(ABC):
    """Reads one teacher's stream. Derive from it to read from another kind of storage.

    A student calls `connect` when it starts, `choose_run` if it resumes from a checkpoint, `open`
    once it needs the stream, `read` for each pass, and `close` at the end. A source holds no
    clients or open files before `open`, so that it can be pickled to DataLoader workers.

    Guarantee: the records of a partition come in offset order, none twice and none skipped, or an
    error is raised.
    """

    #: Records of other runs that lay between the records of this run and were skipped. A teacher
    #: that was thought dead wrote them.
    stale_records: int = 0
    #: Whether this student is one rank of several. Set before `open`, which then fetches no more than
    #: it takes to find the run.
    is_shared: bool = False
    #: Whether any row can be read at any time, so that a pass can be shuffled. Of a `FileSource`.
    is_random_access: bool = False
    #: Whether the tensors of a record that is not needed are never read.
    skips_records: bool = False
    #: The number of bytes worth reading ahead, if it is less than the student's budget. 0 means
    #: that the whole budget is useful.
    ahead_bytes: int = 0

    @property
    @abstractmethod
    def name(self) -> str:
        """The topic or file, as messages name it."""

    @property
    def label(self) -> str:
        """The name without the kind of source, for the labels of metrics."""
        return self.name.removeprefix("topic ")

    def is_same(self, other: Source) -> bool:
        """Return whether another source reads the same stream.

        Args:
            other: The other source.

        Returns:
            True if both read the same stream.
        """
        return self is other or repr(self) == repr(other)

    def ends(self) -> Sequence[tuple[int, int]]:
        """Return each partition's first offset and end offset, as last seen.

        Never waits. Safe in any thread.

        Returns:
            One pair per partition; empty if the offsets are not known.
        """
        return ()

    def connect(self) -> None:
        """Prepare for reading, without waiting for anything.

        Raises:
            ConfigurationError: The source cannot exist, such as a file that is missing.
        """
        return

    def choose_run(self, run_id: str, identity: Mapping[str, str]) -> None:
        """Read the run that a checkpoint was taken from, unless the user named another run.

        Called before `open`.

        Args:
            run_id: The run's name.
            identity: What `identity` returned when the checkpoint was taken.
        """
        return

    def read_run(self, run_id: str) -> None:
        """Read this run, and wait for it. Called before `open`.

        Args:
            run_id: The run's name.

        Raises:
            ConfigurationError: The user named another run, or the source was opened for another.
            RunMismatch: A checkpoint of another run is being resumed.
        """
        return

    @abstractmethod
    def open(self, timeout_s: float) -> StreamInfo:
        """Find the stream, and wait for its first record. A second call returns the same at once.

        Args:
            timeout_s: How long to wait, in seconds.

        Returns:
            Who wrote the stream, what its records hold, and the number of its partitions.

        Raises:
            WaitTimeout: No record came in time.
            DataError: The data are damaged, or are not a stream.
            TransportError: The source could not be reached.
        """

    def pass_rows(self) -> Mapping[int, int]:
        """Return how many rows passes have, as far as that is known without reading the run.

        Called after `open`.

        Returns:
            Pass -> rows, for the passes whose end is there.

        Raises:
            DataError: The data are damaged or incomplete.
            TransportError: The source could not be reached.
        """
        return {}

    @abstractmethod
    def read(self, position: Position) -> Generator[ConsumedRecord | None, None, None]:
        """Yield the records from a position on, without end.

        Args:
            position: The next record's pass and sequence, and the offset of each partition to read
                from.

        Yields:
            A record with its partition and offset, or None whenever no record of the stream came
            for a moment.

        Raises:
            DataError: Data are wrong or missing; the message says where.
            TransportError: Reading failed.
        """

    def only(self, partitions: frozenset[int] | None) -> None:
        """Say which partitions the next `read` has to give. A source may give the others too.

        Args:
            partitions: The partitions that are needed; None for all.
        """
        return

    def hold(self, partitions: frozenset[int]) -> None:
        """Pause these partitions, because too many of their records are waiting; resume all others.

        A new `read` starts with no partition paused.

        Args:
            partitions: The partitions to pause.
        """
        return

    def reached(self) -> Sequence[tuple[int, int]]:
        """Return how far `read` has come in each partition.

        Never waits. Only for the thread that reads.

        Returns:
            For each partition the next offset, and the partition's end as of the last fetch. Zeros
            where an offset is not known.
        """
        return ()

    def explain(self, error: TutelageError) -> TutelageError:
        """Find the cause of an error that ended reading, such as a topic that was recreated.

        Args:
            error: The error.

        Returns:
            The error to raise: the cause if it is known, else the same error.
        """
        return error

    def identity(self) -> Mapping[str, str]:
        """Return what must be unchanged, besides the run, for a position to be valid.

        Returns:
            Names and values, such as the ids of cluster and topic. They are kept in checkpoints.
        """
        return {}

    @property
    def commits(self) -> bool:
        """Whether the student's progress is to be committed, for a consumer group."""
        return False

    def commit(self, position: Position) -> None:
        """Commit the student's progress.

        Args:
            position: The position from which reading would continue.
        """
        return

    @property
    def online(self) -> bool:
        """Whether control messages can be exchanged with the teacher."""
        return False

    def send(self, value: Any) -> None:
        """Send a control message to the teacher.

        Args:
            value: A JSON-like value that may hold arrays and bytes.

        Raises:
            ConfigurationError: The source has no control channel; a file has none.
        """
        raise self._no_control_channel()

    def recv(self, timeout_s: float) -> Any:
        """Return the teacher's next control message.

        Args:
            timeout_s: How long to wait, in seconds.

        Returns:
            The value that was sent.

        Raises:
            ConfigurationError: The source has no control channel; a file has none.
            WaitTimeout: No message came in time.
        """
        raise self._no_control_channel()

    def ask(self, value: Any, timeout_s: float) -> Any:
        """Send a control message and return the teacher's answer to it.

        Args:
            value: A JSON-like value that may hold arrays and bytes.
            timeout_s: How long to wait, in seconds.

        Returns:
            The answer.

        Raises:
            ConfigurationError: The source has no control channel; a file has none.
            WaitTimeout: No answer came in time.
        """
        raise self._no_control_channel()

    def _no_control_channel(self) -> ConfigurationError:
        return ConfigurationError(
            f"{self.name} has no control channel to its teacher: control messages need a topic, "
            "not a file"
        )

    @abstractmethod
    def close(self) -> None:
        """Release everything. May be called twice; `open` may be called again."""
