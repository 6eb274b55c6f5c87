"""A student's control messages to its teachers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from tutelage.consumers.settings import Settings
from tutelage.consumers.sources.base import Source
from tutelage.schemas.arguments import seconds, whole_number
from tutelage.schemas.errors import ConfigurationError

log = logging.getLogger(__name__)


def send(sources: Sequence[Source], value: Any, teachers: Sequence[int] | None) -> None:
    """Send a value to all teachers, or to those with these numbers; teachers of files are passed over with a warning."""
    from tutelage.consumers.stages.torch_view import without_torch

    if teachers is not None and (
        isinstance(teachers, (str, bytes)) or not isinstance(teachers, Iterable)
    ):
        raise ConfigurationError(
            f"teachers is {teachers!r}; it must be a list of teachers' numbers, such as [0]"
        )
    # All of them are looked up before anything is sent: a wrong number must not leave half of the messages on their way.
    for source in (
        list(sources) if teachers is None else [numbered(sources, index) for index in teachers]
    ):
        if source.online:
            source.send(without_torch(value))
        else:
            log.warning("%s is a file: the message is not sent to its teacher", source.name)


def ask(sources: Sequence[Source], value: Any, teacher: int, timeout_s: float) -> Any:
    """Send a value to the teacher with that number and return its answer. WaitTimeout if none comes in time."""
    from tutelage.consumers.stages.torch_view import without_torch

    return numbered(sources, teacher).ask(without_torch(value), timeout_s)


def numbered(sources: Sequence[Source], index: Any) -> Source:
    """The source of the teacher with a number. ConfigurationError if there is none."""
    number = whole_number("the teacher's number", index, least=0)
    if number >= len(sources):
        raise ConfigurationError(
            f"there is no teacher {number}; {len(sources)} are registered, from 0"
        )
    return sources[number]


class ControlMessages:
    """A student's messages to and from its teachers."""

    _sources: list[Source]
    _settings: Settings
    _started: bool

    def _refuse_unstarted(self) -> None:
        """ConfigurationError unless the student is started."""
        if not self._started:
            raise ConfigurationError("the student is not started; use `with student:` or start()")

    def send(self, value: Any, teachers: Sequence[int] | None = None) -> None:
        """Send a control message to all teachers, or to some of them.

        Teachers of files are passed over with a warning.

        Args:
            value: A JSON-like value that may hold tensors, arrays and bytes.
            teachers: The numbers of the teachers, from 0. All of them if not given.

        Raises:
            ConfigurationError: The student is not started, or there is no teacher of that number.
            TransportError: A message could not be delivered.
        """
        self._refuse_unstarted()
        send(self._sources, value, teachers)

    def recv(self, teacher: int, *, timeout_s: float | None = None) -> Any:
        """Return the next control message of a teacher.

        Args:
            teacher: The teacher's number, from 0.
            timeout_s: How long to wait, in seconds. 0 takes only a message that is there. If not
                given, the student's `timeout_s`.

        Returns:
            The value that was sent; tensors come as numpy arrays.

        Raises:
            ConfigurationError: The student is not started, or the teacher is one of a file.
            WaitTimeout: No message came in time.
        """
        self._refuse_unstarted()
        wait_s = (
            self._settings.timeout_s
            if timeout_s is None
            else seconds("timeout_s", timeout_s, zero=True)
        )
        return numbered(self._sources, teacher).recv(wait_s)

    def ask(self, value: Any, *, teacher: int = 0, timeout_s: float | None = None) -> Any:
        """Send a control message to a teacher and return its answer.

        The answer is what the teacher sends next after it received the question. An older answer is
        never taken for it.

        Args:
            value: A JSON-like value that may hold tensors, arrays and bytes.
            teacher: The teacher's number, from 0.
            timeout_s: How long to wait for the answer, in seconds. If not given, the student's
                `timeout_s`.

        Returns:
            The answer; tensors come as numpy arrays.

        Raises:
            ConfigurationError: The student is not started, or the teacher is one of a file.
            WaitTimeout: No answer came in time.
        """
        self._refuse_unstarted()
        wait_s = self._settings.timeout_s if timeout_s is None else seconds("timeout_s", timeout_s)
        return ask(self._sources, value, teacher, wait_s)
