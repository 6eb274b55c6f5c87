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
    #: Whether a new run may begin behind a finished one.
    holds_runs: bool = False
    _wait: Wait | None = None

    @property
    @abstractmethod
    def name(self) -> str:
        """What people call it: a topic or a file."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What a teacher that writes here is called unless it has a name."""

    @property
    def wait(self) -> Wait | None:
        """The wait for a student or a broker that is under way, if one is. May be asked from any thread."""
        return self._wait

    @abstractmethod
    def tail(self) -> Tail | None:
        """What it holds of its newest run; None if it holds nothing. Called once, before `open`."""

    def begin_run(self, run_id: str | None) -> None:
        """Have `open` begin a new run behind what `tail` gave. Called between the two.

        Raises:
            ConfigurationError: It holds one run only.
            SinkExists: It holds a run of that id already, which is not its newest.
        """
        raise ConfigurationError(
            f"{self.name} is a file, and a file holds one run; write the new run to another file, or replace this one with overwrite=True "
            "(--overwrite)"
        )

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

    def speak_of(self, run_id: str) -> None:
        """Have control messages belong to this run from now on."""
        return

    def ask(self, value: Any, timeout_s: float) -> Any:
        """Send a control message and return the student's answer to it."""
        raise ConfigurationError(f"{self.name} is a file: nobody is there to talk to; ask needs a topic")

    def recv(self, timeout_s: float) -> Any:
        """The student's next control message."""
        raise ConfigurationError(f"{self.name} is a file: nobody is there to talk to; send and recv need a topic")
