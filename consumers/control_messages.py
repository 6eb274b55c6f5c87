"""The control messages that a student exchanges with its teachers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from tutelage.consumers.settings import Settings
from tutelage.consumers.sources.base import Source
from tutelage.consumers.stages.torch_view import tensors_to_arrays
from tutelage.schemas.arguments import check_seconds, check_whole_number
from tutelage.schemas.errors import ConfigurationError

log = logging.getLogger(__name__)


class ControlMessages:
    """The part of `Student` that exchanges control messages with its teachers."""

    _sources: list[Source]
    _settings: Settings
    _started: bool

    def _check_started(self) -> None:
        """Raise ConfigurationError unless the student is started."""
        if not self._started:
            raise ConfigurationError("the student is not started; use `with student:` or start()")

    def send(self, value: Any, teachers: Sequence[int] | None = None) -> None:
        """Send a control message to all teachers, or to some of them.

        Teachers of files are skipped with a warning.

        Args:
            value: A JSON-like value that may hold tensors, arrays and bytes.
            teachers: The numbers of the teachers, from 0. If not given, all of them.

        Raises:
            ConfigurationError: The student is not started, or there is no teacher of that number.
            TransportError: A message could not be delivered.
        """
        self._check_started()
        # Every number is checked before anything is sent, so that a wrong one sends nothing.
        for source in _select(self._sources, teachers):
            if source.online:
                source.send(tensors_to_arrays(value))
            else:
                log.warning("%s is a file: the message is not sent to its teacher", source.name)

    def recv(self, teacher: int, *, timeout_s: float | None = None) -> Any:
        """Return the next control message of a teacher.

        Args:
            teacher: The teacher's number, from 0.
            timeout_s: How long to wait, in seconds. 0 takes only a message that is already there.
                If not given, the student's `timeout_s`.

        Returns:
            The value that was sent. Tensors come as numpy arrays.

        Raises:
            ConfigurationError: The student is not started, or the teacher's stream is a file.
            WaitTimeout: No message came in time.
        """
        self._check_started()
        wait_s = (
            self._settings.timeout_s
            if timeout_s is None
            else check_seconds("timeout_s", timeout_s, zero=True)
        )
        return _source_at(self._sources, teacher).recv(wait_s)

    def ask(self, value: Any, *, teacher: int = 0, timeout_s: float | None = None) -> Any:
        """Send a control message to a teacher and return its answer.

        The answer is the next message that the teacher sends after it received the question. An
        older message is never taken for it.

        Args:
            value: A JSON-like value that may hold tensors, arrays and bytes.
            teacher: The teacher's number, from 0.
            timeout_s: How long to wait for the answer, in seconds. If not given, the student's
                `timeout_s`.

        Returns:
            The answer. Tensors come as numpy arrays.

        Raises:
            ConfigurationError: The student is not started, or the teacher's stream is a file.
            WaitTimeout: No answer came in time.
        """
        self._check_started()
        wait_s = (
            self._settings.timeout_s if timeout_s is None else check_seconds("timeout_s", timeout_s)
        )
        return _source_at(self._sources, teacher).ask(tensors_to_arrays(value), wait_s)


def _select(sources: Sequence[Source], teachers: Any) -> list[Source]:
    """The sources of the teachers with these numbers; all of them for None."""
    if teachers is None:
        return list(sources)
    if isinstance(teachers, (str, bytes)) or not isinstance(teachers, Iterable):
        raise ConfigurationError(
            f"teachers is {teachers!r}; it must be a list of teachers' numbers, such as [0]"
        )
    return [_source_at(sources, index) for index in teachers]


def _source_at(sources: Sequence[Source], index: Any) -> Source:
    """The source of the teacher with this number."""
    number = check_whole_number("the teacher's number", index, least=0)
    if number >= len(sources):
        raise ConfigurationError(
            f"there is no teacher {number}; {len(sources)} are registered, from 0"
        )
    return sources[number]
