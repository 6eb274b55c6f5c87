"""What a teacher or a student is doing: set by the thread that does it, read by any thread."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tutelage.transport.waiting import Wait


@dataclass(frozen=True, kw_only=True, slots=True)
class Activity:
    """What a teacher or a student is doing now, and for how long: for health checks and screens.

    Attributes:
        doing: The activity, in words.
        seconds: How long it has lasted.
        begun: Whether its streams are open.
        waiting: Whether somebody else has to act first.
        silent_s: Seconds since the last sign of life, where one is due several times a second;
            0 where none is due.
    """

    doing: str
    seconds: float
    begun: bool = True
    waiting: bool = False
    silent_s: float = 0.0


class Status:
    """Holds the current activity. One thread sets it; any thread may read it."""

    def __init__(self, what: str) -> None:
        #: The wait in progress, if there is one.
        self.wait: Wait | None = None
        self.since_s = self._beat_s = 0.0
        self.now(what, begun=False)

    def now(self, what: str, *, begun: bool = True, beats: bool = False) -> None:
        """Start another activity.

        Args:
            what: The activity, in words.
            begun: Whether the streams are open.
            beats: Promises a `beat` several times a second until the next change.
        """
        self.since_s = self._beat_s = time.monotonic()
        self._state = (what, begun, beats)

    def beat(self) -> None:
        """Give a sign of life."""
        self._beat_s = time.monotonic()

    @property
    def activity(self) -> Activity:
        """The current activity."""
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
