"""Limits how often something is done, such as logging a repeated warning."""

from __future__ import annotations

import time


class RateLimit:
    """Allows an action at most once every `every_s` seconds, and at once the first time."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._next_s = 0.0

    def due(self) -> bool:
        """Whether the action is due. If so, it is next due `every_s` seconds from now."""
        now = time.monotonic()
        if now < self._next_s:
            return False
        self._next_s = now + self._every_s
        return True
