"""What a stage of a student's chain is: it pulls from the stage before it, one item at a time."""

from __future__ import annotations

from typing import Protocol, TypeVar

Item = TypeVar("Item", covariant=True)

#: A stage that waits gives up, and returns None, after about this many seconds.
MOMENT_S = 0.25


class LastItem:
    """The item behind which a stage has no others."""

    __slots__ = ()


class Stage(Protocol[Item]):
    """Pulls items from the stage before it and gives them on, changed.

    One thread uses a stage at a time. `close` ends the stages before it too.
    """

    def poll(self, *, eager: bool = True) -> Item | None:
        """Return the next item, or None if it is not ready. Waits for a moment at most.

        Args:
            eager: Whether somebody waits for the item: give what is ready now. Otherwise the stage
                may collect more first, to give it in one piece.

        Raises:
            TutelageError: The stage, or one before it, failed. It comes behind all whole items.
        """

    def close(self) -> None:
        """Release everything. May be called twice."""
