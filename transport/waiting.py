"""Waiting with a voice: every wait has a limit, and says what it waits for once it takes long enough to be noticed."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from tutelage.schemas.errors import WaitTimeout
from tutelage.schemas.printable import printable

# When a waiter speaks up, in seconds; after the last, each time as long again.
_SPEAKS_AFTER_S = (2.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Activity:
    """What a teacher or a student does right now, in words and for how many seconds: for health checks and screens.

    `begun` says that its streams are open, `waiting` that somebody else has to act first. `silent_s` is how long it has given no sign of
    life where one is due several times a second; 0 where none is.
    """

    doing: str
    seconds: float
    begun: bool = True
    waiting: bool = False
    silent_s: float = 0.0


class Status:
    """Keeps what somebody is at: told by the thread that does it, asked by any."""

    def __init__(self, what: str) -> None:
        #: The wait that is under way, if one is.
        self.wait: Wait | None = None
        self.since_s = self._beat_s = 0.0
        self.now(what, begun=False)

    def now(self, what: str, *, begun: bool = True, beats: bool = False) -> None:
        """Begin to do something else; `beats` promises a `beat` several times a second until the next change."""
        self.since_s = self._beat_s = time.monotonic()
        self._state = (what, begun, beats)

    def beat(self) -> None:
        """Give a sign of life."""
        self._beat_s = time.monotonic()

    @property
    def activity(self) -> Activity:
        """What is done right now."""
        what, begun, beats = self._state
        wait, now = self.wait, time.monotonic()
        silent_s = now - self._beat_s if beats else 0.0
        if wait is not None:
            return Activity(
                doing=f"waiting for {wait.what}",
                seconds=wait.waited_s,
                waiting=True,
                silent_s=silent_s,
            )
        return Activity(
            doing=what,
            seconds=now - self.since_s,
            begun=begun,
            waiting=not begun,
            silent_s=silent_s,
        )


class RateLimit:
    """For what would else be said all the time: due when it is asked first, and then once in so many seconds."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._next_s = 0.0

    def due(self) -> bool:
        """Whether it is time; if so, the next time is `every_s` from now."""
        now = time.monotonic()
        if now < self._next_s:
            return False
        self._next_s = now + self._every_s
        return True


class Wait:
    """One wait for `what`. Call `tick` each time round; it warns at growing intervals and raises WaitTimeout at the end.

    It does not warn before `quiet_s`: for waits that are known to take so long.
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
        self._speaks = iter(_SPEAKS_AFTER_S)
        self._next_s = max(quiet_s, next(self._speaks))

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
            self._log.warning(
                "waiting for %s (%.0f s of at most %.0f s)", self.what, waited_s, self._timeout_s
            )
            while self._next_s <= waited_s:
                self._next_s = next(self._speaks, waited_s + _SPEAKS_AFTER_S[-1])
