"""Waiting with a voice: every wait has a limit, and says what it waits for once it takes long enough to be noticed."""

from __future__ import annotations

import logging
import time

from tutelage.schemas.errors import WaitTimeout

# When a waiter speaks up, in seconds; after the last, each time as long again.
_SPEAKS_AFTER_S = (2.0, 10.0, 30.0, 60.0)


class Wait:
    """One wait for `what`. Call `tick` each time round; it warns at growing intervals and raises WaitTimeout at the end."""

    def __init__(self, what: str, *, timeout_s: float, log: logging.Logger, hint: str = "") -> None:
        self.what = what
        self._hint = f"; {hint}" if hint else ""
        self._timeout_s = timeout_s
        self._log = log
        self._began = time.monotonic()
        self._speaks = iter(_SPEAKS_AFTER_S)
        self._next_s = next(self._speaks)

    @property
    def waited_s(self) -> float:
        """Seconds since the wait began."""
        return time.monotonic() - self._began

    def tick(self) -> None:
        """Speak if it is time; raise WaitTimeout if time is up."""
        waited_s = self.waited_s
        if waited_s >= self._timeout_s:
            raise WaitTimeout(f"waited {waited_s:.0f} s for {self.what}{self._hint}")
        if waited_s >= self._next_s:
            self._log.warning("waiting for %s (%.0f s of at most %.0f s)", self.what, waited_s, self._timeout_s)
            self._next_s = next(self._speaks, waited_s + _SPEAKS_AFTER_S[-1])
