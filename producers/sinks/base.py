"""`Sink`: the interface between a run that makes records and the place that stores them.

Packed records enter, in order. A sink knows nothing of models, batches or rows. A topic may hold
several runs, one after the other (`begin_run`); a file holds one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from tutelage.producers.record_share import RecordShare
from tutelage.schemas.codec import Encoded
from tutelage.schemas.errors import ConfigurationError
from tutelage.schemas.record import Description, RecordHead, Stream
from tutelage.schemas.tail import Tail
from tutelage.transport.waiting import Wait


class ControlChannel(Protocol):
    """Carries control messages between a teacher and its student."""

    def send(self, value: Any) -> None:
        """Send a value."""

    def recv(self, timeout_s: float) -> Any:
        """Return the next value. Raises WaitTimeout if none arrives in time."""

    def ask(self, value: Any, timeout_s: float) -> Any:
        """Send a value and return the answer. Raises WaitTimeout if none arrives in time."""


class Sink(ABC):
    """Stores the records of one run, in order. Derive from it to write to a place of your own.

    A teacher calls `tail` once, `begin_run` if it begins a new run behind the one that is there,
    then `open`. One of several writers of a run calls `share_with` before, and may call
    `look_again` between. After that it calls `pack` for each record, from several threads, and `write` in
    order, from one thread. At the end it calls `finish`, and in any case `close`.

    Guarantee: when `finish` returns, every record is stored. A failure raises and never leaves a
    gap.
    """

    #: How many seconds a record may wait for more rows when R is chosen automatically; None if
    #: nobody waits for records.
    linger_s: float | None = None
    #: About how many bytes a record has when R is chosen automatically; fewer if fewer arrive
    #: within `linger_s`. At this size the cost of handling a record is negligible on either side,
    #: and a few records still fit in the processor's cache (docs/performance.md).
    target_record_bytes: int = 4 << 20
    #: How many bytes a record may have; None if there is no limit.
    max_record_bytes: int | None = None
    #: How many partitions a new run has here.
    partitions: int = 1
    #: Whether a new run may begin behind a finished one.
    holds_runs: bool = False
    _wait: Wait | None = None

    @property
    @abstractmethod
    def name(self) -> str:
        """What messages call the sink, such as a topic or a file."""

    @property
    @abstractmethod
    def label(self) -> str:
        """The name of a teacher that writes here and was given none."""

    @property
    def wait(self) -> Wait | None:
        """The current wait for a student or a broker, or None. Safe in any thread."""
        return self._wait

    @abstractmethod
    def tail(self) -> Tail | None:
        """Find out what the sink holds. Called once, before `open`.

        Returns:
            What it holds of its newest run; None if it holds nothing.

        Raises:
            ConfigurationError: The sink cannot be used with its arguments.
            SinkExists: What it holds cannot be continued.
            TransportError: The sink could not be reached or read.
        """

    def share_with(self, share: RecordShare) -> None:
        """Write only the records of one of several writers, and to its partitions alone.

        Called before `tail`, which then says what the partitions of this writer hold.

        Args:
            share: Which records are written here.

        Raises:
            ConfigurationError: A run has one writer here.
        """
        raise ConfigurationError(
            f"{self.name} has one writer; several ranks write to a topic, KafkaSink(...)"
        )

    def look_again(self, run_id: str) -> Tail | None:
        """Find out whether another writer has begun a run. Called before `open`, any number of times.

        Args:
            run_id: The run's name.

        Returns:
            As `tail`; None if the newest run is another one.

        Raises:
            TransportError: The sink could not be reached or read.
        """
        raise ConfigurationError(f"{self.name} has one writer, and waits for no other")

    def begin_run(self, run_id: str | None) -> None:
        """Make `open` begin a new run behind what `tail` returned. Called between the two.

        Args:
            run_id: The new run's name; None if it gets a random one, or another writer begins it.

        Raises:
            ConfigurationError: The sink holds one run only.
            SinkExists: It already holds a run of that name, and a newer one.
        """
        raise ConfigurationError(
            f"{self.name} holds one run only; write the new run to another sink"
        )

    @abstractmethod
    def open(self, stream: Stream, description: Description) -> None:
        """Begin a new run, or continue the one that `tail` returned.

        Args:
            stream: The run: its name, teacher, passes, partitions and rows per record.
            description: Key -> dtype, row shape and wire dtype of every record.

        Raises:
            SinkExists: The run does not fit what the sink holds.
            SchemaError: The description is not accepted.
            TransportError: The sink could not be opened.
        """

    @abstractmethod
    def pack(self, encoded: Encoded) -> Any:
        """Convert a record to the form that `write` takes: copy it, compress it.

        Called from several threads.

        Args:
            encoded: The record's head, its buffers and their total size in bytes.

        Returns:
            What `write` takes; any type.

        Raises:
            RecordTooLarge: The record is larger than the sink accepts.
        """

    @abstractmethod
    def write(self, head: RecordHead, packed: Any) -> None:
        """Store a record. Called in order, from one thread.

        Args:
            head: The record's head. An end record goes to every partition.
            packed: What `pack` returned for the record.

        Raises:
            TransportError: This record, or an earlier one, could not be stored.
        """

    @abstractmethod
    def finish(self) -> None:
        """Wait until every record is stored durably. The run is then complete.

        Raises:
            TransportError: A record could not be stored.
        """

    @abstractmethod
    def close(self) -> None:
        """Release all resources, whether or not the run is complete. May be called twice."""

    def watch_deliveries(self, observe: Callable[[float], None]) -> None:
        """Call a function for each delivery, if the sink has deliveries.

        Args:
            observe: Takes the seconds from handing a record over to its acknowledgement.
        """
        return

    @property
    def queued(self) -> tuple[int, int]:
        """How many records, and how many bytes, `write` took that are not stored yet."""
        return 0, 0

    @property
    def records_by_partition(self) -> Mapping[int, int]:
        """Partition -> records written since `open`, end records included.

        Empty if the sink has no partitions.
        """
        return {}

    def settle(self) -> None:
        """Wait until the sink no longer refers to the caller's memory.

        Raises:
            TransportError: A record could not be stored.
        """
        return

    def poll(self) -> None:
        """Process pending deliveries. Called regularly while nothing is written.

        Raises:
            TransportError: A record could not be stored.
        """
        return

    def bind_run(self, run_id: str) -> None:
        """Make control messages belong to a run from now on.

        Args:
            run_id: The run's name.
        """
        return

    def send(self, value: Any) -> None:
        """Send a control message to the student.

        Args:
            value: A JSON-like value that may hold arrays and bytes.

        Raises:
            ConfigurationError: The sink carries no control messages, as with a file.
        """
        self._control_channel().send(value)

    def recv(self, timeout_s: float) -> Any:
        """Return the student's next control message.

        Args:
            timeout_s: How long to wait, in seconds.

        Returns:
            The value that was sent.

        Raises:
            ConfigurationError: The sink carries no control messages, as with a file.
            WaitTimeout: No message arrived in time.
        """
        return self._control_channel().recv(timeout_s)

    def ask(self, value: Any, timeout_s: float) -> Any:
        """Send a control message and return the student's answer to it.

        Args:
            value: A JSON-like value that may hold arrays and bytes.
            timeout_s: How long to wait, in seconds.

        Returns:
            The answer.

        Raises:
            ConfigurationError: The sink carries no control messages, as with a file.
            WaitTimeout: No answer arrived in time.
        """
        return self._control_channel().ask(value, timeout_s)

    def _control_channel(self) -> ControlChannel:
        """Return the channel to the student; a sink that has one overrides this."""
        raise ConfigurationError(
            f"{self.name} carries no control messages; send, recv and ask need a topic"
        )
