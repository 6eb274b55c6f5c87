"""Where a stream comes from: the seam between fetching records and putting them in order.

A source gives records as they lie in each partition, duplicates and all. What they mean together is for `order.py`.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.schemas.container_reader import StoredRecord
from tutelage.schemas.errors import ConfigurationError, TutelageError
from tutelage.schemas.record import Description, Record, Stream

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

    #: Records of other runs that lay among those of this one: written by a teacher that was thought dead. They were passed over.
    stale_records: int = 0
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

    def choose_run(self, run_id: str, identity: Mapping[str, str]) -> None:
        """Read this run, which a checkpoint was taken of, unless another one was asked for. Called before `open`.

        Args:
            run_id: The run.
            identity: What `identity` was then.
        """
        return

    @abstractmethod
    def open(self, timeout_s: float) -> Opened:
        """Find the stream, waiting for its first record. Called again, it gives the same answer at once."""

    @abstractmethod
    def read(self, position: Position) -> Generator[Arrival | None, None, None]:
        """The records from a position on, without end; None each time nothing of the stream came for a moment."""

    def hold(self, partitions: frozenset[int]) -> None:
        """Fetch nothing from these partitions for now: too much of them waits for another. A new `read` holds none."""
        return

    def reached(self) -> Sequence[tuple[int, int]]:
        """How far `read` has come in each partition, and where that ended when it was last heard of; zeros where nobody knows.

        Waits for nothing. Called by the thread that reads.
        """
        return ()

    def explain(self, error: TutelageError) -> TutelageError:
        """The error behind one that reading ended in: where a topic was recreated, say, records are missing because of that."""
        return error

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

    def ask(self, value: Any, timeout_s: float) -> Any:
        """Send a control message and return the teacher's answer to it."""
        raise ConfigurationError(f"{self.name} is a file: its teacher is not there to talk to")

    @abstractmethod
    def close(self) -> None:
        """Release everything. `open` may be called again; may be called twice."""
