"""A queue from one thread to another, bounded in bytes, that carries errors too."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Closed(Exception):
    """The queue was closed."""


class BoundedQueue(Generic[Item]):
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

    def items(self) -> list[Item]:
        """What is in it."""
        with self._changed:
            return [item for item, _ in self._items]

    @property
    def used(self) -> int:
        """The total size of what is in it."""
        return self._used

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def put(self, item: Item, size: int, *, wait: bool = True) -> bool:
        """Add an item, waiting for room; without `wait` say whether there was room.

        Raises:
            Closed: The queue was closed.
        """
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
        """Return the next item, or None if none comes in time.

        Raises:
            Closed: The queue was closed.
            BaseException: What `fail` was given, behind the items that were put before it.
        """
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
        """Give the reader an error, behind what is in the queue."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def close(self) -> None:
        """Drop what is in it, and wake writer and reader."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._used = 0
            self._changed.notify_all()
