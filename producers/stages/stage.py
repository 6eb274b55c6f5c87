"""What a stage of a teacher's chain is: it pulls from the stage before it and never waits."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item", covariant=True)


class Stage(Protocol[Item]):
    """Gives items in order. What takes long is done in threads, as futures.

    Only one thread uses the stages; it waits for `pending` when `poll` gives nothing.
    """

    def poll(self, *, eager: bool) -> Item | None:
        """Return the next item if it is ready, and have more made ready.

        Args:
            eager: Whether nothing was ready at the last wait: then parts are given on that would
                otherwise wait for more.

        Raises:
            BaseException: What the model, the inputs or a check raised.
        """

    def pending(self) -> Sequence[Future[Any]]:
        """The futures of which one must be done before `poll` gives more; none at the end."""
