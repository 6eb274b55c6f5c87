"""A bounded way from one thread to another: as many bytes as the budget allows, errors and the end included."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Closed(Exception):
    """The other side left."""


class Channel(Generic[Item]):
    """One writer, one reader. An item larger than the budget passes alone."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._items: deque[tuple[Item, int]] = deque()
        self._used = 0
        self._error: BaseException | None = None
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._items)

    def items(self) -> list[tuple[Item, int]]:
        """What is in it, with sizes."""
        with self._changed:
            return list(self._items)

    @property
    def used(self) -> int:
        """The size of what is in it."""
        return self._used

    @property
    def closed(self) -> bool:
        """Whether a side left."""
        return self._closed

    def put(self, item: Item, size: int, *, wait: bool = True) -> bool:
        """Add an item, waiting for room; says whether it was added, if not to `wait`. Closed if the reader left."""
        with self._changed:
            while self._used and self._used + size > self._budget and not self._closed:
                if not wait:
                    return False
                self._changed.wait()
            if self._closed:
                raise Closed
            self._items.append((item, size))
            self._used += size
            self._changed.notify_all()
            return True

    def get(self, timeout_s: float) -> Item | None:
        """The next item, or None if none comes in time. Raises the writer's error after its last item; Closed if it left."""
        with self._changed:
            if not self._items and self._error is None and not self._closed:
                self._changed.wait(timeout_s)
            if self._items:
                item, size = self._items.popleft()
                self._used -= size
                self._changed.notify_all()
                return item
            if self._error is not None:
                raise self._error
            if self._closed:
                raise Closed
            return None

    def fail(self, error: BaseException) -> None:
        """Hand the reader an error, behind what is in the channel."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def close(self) -> None:
        """Leave, from either side; whoever waits is woken."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._used = 0
            self._changed.notify_all()
