"""A teacher's control messages to and from its student."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tutelage.producers.sinks.base import Sink
from tutelage.producers.stages.host_arrays import without_torch
from tutelage.schemas.arguments import check_seconds

if TYPE_CHECKING:
    from tutelage.producers.batch_writer import BatchWriter


class ControlMessages:
    """The part of `Teacher` that talks to the student. Full records are written before."""

    _sink: Sink

    if TYPE_CHECKING:

        def _batch_writer(self) -> BatchWriter: ...

    def send(self, value: Any) -> None:
        """Send a control message to the student. Needs a topic.

        Args:
            value: A JSON-like value that may hold tensors, arrays and bytes.

        Raises:
            ConfigurationError: The sink is a file, or the teacher is not started.
        """
        batches = self._batch_writer()
        message = without_torch(value)
        batches.write_waiting()
        self._sink.send(message)

    def recv(self, *, timeout_s: float = 600.0) -> Any:
        """Return the student's next control message.

        Args:
            timeout_s: How long to wait, in seconds. 0 takes only a message that is there.

        Returns:
            The value that was sent; tensors come as numpy arrays.

        Raises:
            ConfigurationError: The sink is a file, or the teacher is not started.
            WaitTimeout: No message came in time.
        """
        batches = self._batch_writer()
        timeout_s = check_seconds("timeout_s", timeout_s, zero=True)
        batches.write_waiting()
        return self._sink.recv(timeout_s)

    def ask(self, value: Any, *, timeout_s: float = 600.0) -> Any:
        """Send a control message to the student and return what it sends next after it: the answer.

        Args:
            value: A JSON-like value that may hold tensors, arrays and bytes.
            timeout_s: How long to wait for the answer, in seconds.

        Returns:
            The answer; tensors come as numpy arrays.

        Raises:
            ConfigurationError: The sink is a file, or the teacher is not started.
            WaitTimeout: No answer came in time.
        """
        batches = self._batch_writer()
        message, timeout_s = without_torch(value), check_seconds("timeout_s", timeout_s, zero=True)
        batches.write_waiting()
        return self._sink.ask(message, timeout_s)
