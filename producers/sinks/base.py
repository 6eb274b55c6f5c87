"""Where a stream goes: the seam between making records and keeping them.

A sink is asked first what it holds (`tail`), then told what comes (`open`), then given packed records in order. It knows nothing of
models, batches or rows. A topic may hold several runs, one behind the other (`begin_run`); a file holds one.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from tutelage.schemas.codec import Encoded
from tutelage.schemas.errors import ConfigurationError
from tutelage.schemas.record import Description, RecordHead, Stream
from tutelage.schemas.tail import Tail
from tutelage.transport.waiting import Wait

log = logging.getLogger(__name__)


class Sink(ABC):
    """Keeps one run's records, in order. Derive from it to write to a place of your own.

    A teacher calls `tail` once, `begin_run` if a new run is to begin behind the one there, then
    `open`; then `pack` for each record, in several threads, and `write` in order in one thread; at
    the end `finish`, and always `close`.

    Guarantee: when `finish` returns, every record is kept. A failure raises and never leaves a gap.
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
    #: Whether a new run may begin behind a finished one.
    holds_runs: bool = False
    _wait: Wait | None = None

    @property
    @abstractmethod
    def name(self) -> str:
        """What people call it: a topic or a file. Used in messages."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What a teacher that writes here is called if it was given no name."""

    @property
    def wait(self) -> Wait | None:
        """The wait for a student or a broker that is under way, or None. Safe in any thread."""
        return self._wait

    @abstractmethod
    def tail(self) -> Tail | None:
        """Look at what the sink holds. Called once, before `open`.

        Returns:
            What it holds of its newest run; None if it holds nothing.

        Raises:
            ConfigurationError: The sink cannot be used as it was asked for.
            SinkExists: What it holds cannot be continued.
            TransportError: It could not be looked at.
        """

    def begin_run(self, run_id: str | None) -> None:
        """Have `open` begin a new run behind what `tail` returned. Called between the two.

        Args:
            run_id: The new run's name; None if it gets a random one.

        Raises:
            ConfigurationError: The sink holds one run only.
            SinkExists: It holds a run of that name already, which is not its newest.
        """
        raise ConfigurationError(
            f"{self.name} is a file, and a file holds one run; write the new run to another file, or replace this one with overwrite=True "
            "(--overwrite)"
        )

    @abstractmethod
    def open(self, stream: Stream, description: Description) -> None:
        """Begin a new run, or go on with the one that `tail` returned.

        Args:
            stream: The run: its name, teacher, passes, partitions and rows per record.
            description: Key -> dtype, row shape and wire dtype of every record.

        Raises:
            SinkExists: The run does not fit what is there.
            SchemaError: The description is refused.
            TransportError: The sink could not be opened.
        """

    @abstractmethod
    def pack(self, encoded: Encoded) -> Any:
        """Bring a record to the form that `write` takes: the place for copies and compression.

        Called from several threads.

        Args:
            encoded: The record's head, its buffers and their bytes.

        Returns:
            What `write` takes; any type.

        Raises:
            RecordTooLarge: The record has more bytes than the sink takes.
        """

    @abstractmethod
    def write(self, head: RecordHead, packed: Any) -> None:
        """Keep a record. Called in order, from one thread.

        Args:
            head: The record's head. An end record goes to every partition.
            packed: What `pack` returned for the record.

        Raises:
            TransportError: This record, or an earlier one, could not be kept.
        """

    @abstractmethod
    def finish(self) -> None:
        """Wait until everything is kept for good. The run is complete then.

        Raises:
            TransportError: A record could not be kept.
        """

    @abstractmethod
    def close(self) -> None:
        """Release everything, whether the run is complete or not. May be called twice."""

    def watch_deliveries(self, observe: Callable[[float], None]) -> None:
        """Have a function called for each delivery, where there are deliveries.

        Args:
            observe: Takes the seconds from a record's hand-over to its acknowledgement.
        """
        return

    @property
    def queued(self) -> tuple[int, int]:
        """Records and bytes that `write` took and that are not kept yet."""
        return 0, 0

    @property
    def records_by_partition(self) -> Mapping[int, int]:
        """Partition -> records written since `open`, end records too; empty without partitions."""
        return {}

    def settle(self) -> None:
        """Wait until the sink refers to nothing of the caller's memory any more.

        Raises:
            TransportError: A record could not be kept.
        """
        return

    def poll(self) -> None:
        """Look after records that are on their way. Called now and then while nothing is written.

        Raises:
            TransportError: A record could not be kept.
        """
        return

    def send(self, value: Any) -> None:
        """Send a control message to the student.

        Args:
            value: A JSON-like value that may hold arrays and bytes.

        Raises:
            ConfigurationError: Nobody is there to talk to, as with a file.
        """
        raise ConfigurationError(
            f"{self.name} is a file: nobody is there to talk to; send and recv need a topic"
        )

    def speak_of(self, run_id: str) -> None:
        """Have control messages belong to a run from now on.

        Args:
            run_id: The run's name.
        """
        return

    def ask(self, value: Any, timeout_s: float) -> Any:
        """Send a control message and return the student's answer to it.

        Args:
            value: A JSON-like value that may hold arrays and bytes.
            timeout_s: How long to wait, in seconds.

        Returns:
            The answer.

        Raises:
            ConfigurationError: Nobody is there to talk to, as with a file.
            WaitTimeout: No answer came in time.
        """
        raise ConfigurationError(
            f"{self.name} is a file: nobody is there to talk to; ask needs a topic"
        )

    def recv(self, timeout_s: float) -> Any:
        """Return the student's next control message.

        Args:
            timeout_s: How long to wait, in seconds.

        Returns:
            The value that was sent.

        Raises:
            ConfigurationError: Nobody is there to talk to, as with a file.
            WaitTimeout: No message came in time.
        """
        raise ConfigurationError(
            f"{self.name} is a file: nobody is there to talk to; send and recv need a topic"
        )
