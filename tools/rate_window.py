"""Values that change over time -> the oldest and the newest one that a rate is computed from."""

from __future__ import annotations

import time
from typing import Generic, TypeVar

Value = TypeVar("Value")

# Rates are averages over this many seconds.
_WINDOW_S = 10.0


class RateWindow(Generic[Value]):
    """The values of the last seconds; at least the last two."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, Value]] = []

    def add(self, value: Value) -> None:
        """Add a value with the current time, and drop values that are too old."""
        self._seen.append((time.monotonic(), value))
        while len(self._seen) > 2 and self._seen[-1][0] - self._seen[0][0] > _WINDOW_S:
            self._seen.pop(0)

    @property
    def oldest(self) -> Value:
        """The oldest value of the window. There must be one."""
        return self._seen[0][1]

    @property
    def elapsed_s(self) -> float:
        """Seconds from the oldest to the newest value; 0 if there is only one."""
        return self._seen[-1][0] - self._seen[0][0]
