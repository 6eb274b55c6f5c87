"""Keeps secrets out of pickles, which may be written to files or queues that others read.

A child process that is being started (spawn, forkserver) gets the secrets with its arguments,
through a private pipe. Copies in the same process keep them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from multiprocessing.context import get_spawning_popen
from typing import Any, Self

from tutelage.schemas.errors import ConfigurationError
from tutelage.transport.hiding import holds_secret


class Secretless:
    """Base class of objects that hold a client's settings.

    Guarantee: a pickle of the object holds no secret, unless it is made for a child process that is
    being started. An object that was pickled without its secrets raises an error that names them
    when it is used.
    """

    _withheld: tuple[str, ...] = ()

    def _copied_state(self) -> dict[str, Any]:
        """The state of a copy."""
        return dict(self.__dict__)

    def _public_state(self, state: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """The state without secrets, and the names of the secrets."""
        raise NotImplementedError

    def _check_secrets_present(self) -> None:
        """Raise ConfigurationError if this object was pickled without its secrets."""
        if self._withheld:
            raise ConfigurationError(
                f"{self!r} was pickled, and pickles hold no secrets: {', '.join(self._withheld)} "
                "is missing; "
                "create it in the process that uses it, or start that process with "
                "multiprocessing, "
                "which passes secrets on"
            )

    def __getstate__(self) -> dict[str, Any]:
        state = self._copied_state()
        if get_spawning_popen() is not None:
            return state
        public, withheld = self._public_state(state)
        return {**public, "_withheld": tuple(withheld)} if withheld else public

    def __copy__(self) -> Self:
        made = object.__new__(type(self))
        made.__dict__.update(self._copied_state())
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        made = object.__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update(copy.deepcopy(self._copied_state(), memo))
        return made


def public_settings(settings: Mapping[str, object]) -> tuple[dict[str, object], list[str]]:
    """Split off secrets: the settings without them, and their names."""
    withheld = [name for name, value in settings.items() if holds_secret(name, value)]
    return {name: value for name, value in settings.items() if name not in withheld}, withheld
