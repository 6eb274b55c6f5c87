"""Bounded waits: each warns while it lasts, and ends with an error that names what was awaited."""

from __future__ import annotations

import logging
import time

from tutelage.schemas.errors import WaitTimeout
from tutelage.schemas.printable import printable

# A wait warns after these seconds, and after the last one every 60 s.
_WARN_AFTER_S = (2.0, 10.0, 30.0, 60.0)


class Wait:
    """One wait with a timeout. Call `tick` in each iteration of the loop that waits.

    Guarantee: `tick` raises WaitTimeout at the first call after `timeout_s`, and until then warns
    at growing intervals.

    Args:
        what: What is awaited; "waiting for" stands before it in messages.
        timeout_s: Seconds until the wait fails.
        log: Where warnings go.
        hint: What to do about it, for the error.
        quiet_s: Seconds without a warning, for waits that usually take that long.
    """

    def __init__(
        self,
        what: str,
        *,
        timeout_s: float,
        log: logging.Logger,
        hint: str = "",
        quiet_s: float = 0.0,
    ) -> None:
        self.what = printable(what)
        self._hint = f"; {hint}" if hint else ""
        self._timeout_s = timeout_s
        self._log = log
        self._began = time.monotonic()
        self._warn_after_s = iter(_WARN_AFTER_S)
        self._next_s = max(quiet_s, next(self._warn_after_s))

    @property
    def waited_s(self) -> float:
        """Seconds since the wait began."""
        return time.monotonic() - self._began

    def tick(self) -> None:
        """Log a warning if one is due.

        Raises:
            WaitTimeout: The time is up.
        """
        waited_s = self.waited_s
        if waited_s >= self._timeout_s:
            raise WaitTimeout(f"waited {waited_s:.0f} s for {self.what}{self._hint}")
        if waited_s >= self._next_s:
            self._log.warning(
                "waiting for %s (%.0f s of at most %.0f s)", self.what, waited_s, self._timeout_s
            )
            while self._next_s <= waited_s:
                self._next_s = next(self._warn_after_s, waited_s + _WARN_AFTER_S[-1])
