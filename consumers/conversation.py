"""A student's control messages to its teachers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from tutelage.consumers.source import Source
from tutelage.schemas.errors import ConfigurationError

log = logging.getLogger(__name__)


def send(sources: Sequence[Source], value: Any, teachers: Sequence[int] | None) -> None:
    """Send a value to all teachers, or to those with these numbers; teachers of files are passed over with a warning."""
    from tutelage.consumers.torch_view import without_torch

    for index in range(len(sources)) if teachers is None else teachers:
        source = numbered(sources, index)
        if source.online:
            source.send(without_torch(value))
        else:
            log.warning("%s is a file: the message is not sent to its teacher", source.name)


def ask(sources: Sequence[Source], value: Any, teacher: int, timeout_s: float) -> Any:
    """Send a value to the teacher with that number and return its answer. WaitTimeout if none comes in time."""
    from tutelage.consumers.torch_view import without_torch

    return numbered(sources, teacher).ask(without_torch(value), timeout_s)


def numbered(sources: Sequence[Source], index: int) -> Source:
    """The source of the teacher with a number. ConfigurationError if there is none."""
    if not 0 <= index < len(sources):
        raise ConfigurationError(f"there is no teacher {index}; {len(sources)} are registered, from 0")
    return sources[index]
